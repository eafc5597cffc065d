//! Secrets of a project: which host gets which header. The value itself is never in a record.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::ProjectId;

/// A reference to a secret: injected at the egress proxy, for its host only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretRef {
    /// The project.
    pub project_id: ProjectId,
    /// Its name, `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// The host name that gets it, exactly.
    pub host: String,
    /// The header that carries it.
    pub header: String,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}
