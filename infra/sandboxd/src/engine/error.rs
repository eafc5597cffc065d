//! Why something could not be done with a sandbox.

use std::io;

/// Reasons, as the control plane tells them apart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// No such sandbox, or another owner's.
    #[error("sandbox {0:?} was not found")]
    NotFound(String),
    /// No such template or snapshot.
    #[error(
        "template {0:?} was not found; known here are base, host, snapshots and templates built on this server"
    )]
    TemplateNotFound(String),
    /// Not in the state the call needs.
    #[error("{0}")]
    Conflict(String),
    /// The caller asked for what makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An idempotency key came again with another request.
    #[error("the idempotency key {0:?} was used for another request: use a new key for a new sandbox")]
    KeyReused(String),
    /// No room for another one.
    #[error("{0}")]
    Capacity(String),
    /// A step failed; the text says which.
    #[error("{step}: {source}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

impl EngineError {
    /// For `map_err`.
    pub(crate) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Capacity(format!("the disk is full ({step}): free some space and try again"))
            }
            _ => Self::Failed { step, source },
        }
    }
}
