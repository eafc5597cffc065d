//! The errors that users see: one table of codes, each with its HTTP status and title, and a page in `docs/errors`.

use std::time::Duration;

use pvm_domain::Invalid;
use pvm_domain::Timestamp;
use pvm_domain::fair_use::Resource;

use crate::ports::{ObjectError, SecretError, VmError, WorkflowError};
use crate::store::StoreError;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)*) => {
        /// A public error code. Stable: clients match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }
        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The code's text.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $code),* } }
            /// Its HTTP status.
            pub fn status(self) -> u16 { match self { $(Self::$name => $status),* } }
            /// Its title: the same for every occurrence.
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title),* } }
        }
    };
}

codes! {
    /// The body is not JSON, or a header is malformed.
    BadRequest = "bad_request", 400, "The request cannot be read";
    /// No token, or one that is not good.
    Unauthorized = "unauthorized", 401, "A valid token is needed";
    /// The token is good, but not for this.
    Forbidden = "forbidden", 403, "The token does not allow this";
    /// Nothing there that the caller may see.
    NotFound = "not_found", 404, "Not found";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "The method is not allowed here";
    /// The state of the resource forbids it now.
    Conflict = "conflict", 409, "The resource is in another state";
    /// The same `Idempotency-Key` came with another request.
    IdempotencyMismatch = "idempotency_mismatch", 409, "The Idempotency-Key was used for another request";
    /// A key's creation cannot be replayed: the key is shown once.
    IdempotencyNoReplay = "idempotency_no_replay", 409, "This answer cannot be given twice";
    /// `If-Match` names an older version.
    VersionMismatch = "version_mismatch", 412, "The resource has changed";
    /// The body is larger than the route takes.
    TooLarge = "too_large", 413, "The body is too large";
    /// The body's media type is not one the route takes.
    UnsupportedMedia = "unsupported_media_type", 415, "The media type is not supported";
    /// A field breaks its rule; `field` names it.
    Invalid = "invalid", 422, "A field is not valid";
    /// A limit of fair use is reached; `Retry-After` says when to come back.
    LimitReached = "limit_reached", 429, "A limit is reached";
    /// A fault on our side.
    Internal = "internal", 500, "Something went wrong on our side";
    /// The VM's server answered with an error.
    VmFailed = "vm_failed", 502, "The VM could not do it";
    /// A part is overloaded or away; trying again is safe.
    Unavailable = "unavailable", 503, "Temporarily unavailable";
    /// The VM did not get ready in time; it may still do so.
    VmNotReady = "vm_not_ready", 503, "The VM is not ready";
}

/// An error as a use case tells it.
#[derive(Debug, thiserror::Error)]
#[error("{code:?}: {detail}")]
pub struct AppError {
    /// Which error.
    pub code: ErrorCode,
    /// What happened this time and what to do, for the user.
    pub detail: String,
    /// The field it is about.
    pub field: Option<String>,
    /// The limit of fair use that is reached.
    pub limit: Option<Resource>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// What lies behind it, for the log only.
    #[source]
    pub source: Option<anyhow::Error>,
}

/// What use cases return.
pub type AppResult<T> = Result<T, AppError>;

impl AppError {
    /// An error with its text for the user.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, limit: None, retry_after: None, source: None }
    }

    /// The thing of this kind does not exist, or is not the caller's to see.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no such {what}, or it is not yours."))
    }

    /// `field` breaks a rule.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Invalid::new(field, reason).into()
    }

    /// The same error, with when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What a model is told: what happened, and how long to wait before it tries again.
    pub fn for_model(&self) -> String {
        match self.retry_after.filter(|_| self.code == ErrorCode::LimitReached) {
            Some(wait) => format!(
                "{} Nothing was done. Wait {} seconds before you try again.",
                self.detail,
                wait.as_secs().max(1)
            ),
            None => self.detail.clone(),
        }
    }

    /// The VM's error behind it, where one is.
    pub fn vm_error(&self) -> Option<&VmError> {
        self.source.as_ref()?.downcast_ref()
    }

    /// The same error, with its cause for the log.
    #[must_use]
    pub fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<Invalid> for AppError {
    fn from(invalid: Invalid) -> Self {
        let mut error = Self::new(ErrorCode::Invalid, format!("`{}` {}.", invalid.field, invalid.reason));
        error.field = Some(invalid.field);
        error
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::new(
                ErrorCode::Conflict,
                "Somebody else changed this at the same moment; read it again and retry.",
            )
            .because(error),
            StoreError::Limit { resource, most } => {
                let name = resource.as_str();
                let detail = format!("The limit `{name}` of {most} is reached: {}.", resource.advice());
                let wait = Duration::from_secs(resource.retry_after_secs(Timestamp::now()));
                let mut reached = Self::new(ErrorCode::LimitReached, detail).retry_after(wait);
                reached.limit = Some(resource);
                reached
            }
            StoreError::Throttled(_) | StoreError::Unavailable(_) => {
                Self::new(ErrorCode::Unavailable, "The database is busy; try again. Retrying is safe.")
                    .retry_after(Duration::from_secs(1))
                    .because(error)
            }
            StoreError::Broken(_) => {
                Self::new(ErrorCode::Internal, "The request failed on our side.").because(error)
            }
        }
    }
}

impl From<ObjectError> for AppError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound => Self::not_found("stored object"),
            ObjectError::Exists => {
                Self::new(ErrorCode::Conflict, "These bytes have arrived already.").because(error)
            }
            ObjectError::Refused(ref text) => Self::new(ErrorCode::Invalid, text.clone()).because(error),
            ObjectError::Unavailable(_) => {
                Self::new(ErrorCode::Unavailable, "The file store is busy; try again. Retrying is safe.")
                    .retry_after(Duration::from_secs(1))
                    .because(error)
            }
        }
    }
}

impl From<WorkflowError> for AppError {
    fn from(error: WorkflowError) -> Self {
        Self::new(ErrorCode::Unavailable, "The workflow engine is busy; try again. Retrying is safe.")
            .retry_after(Duration::from_secs(1))
            .because(error)
    }
}

impl From<SecretError> for AppError {
    fn from(error: SecretError) -> Self {
        Self::new(ErrorCode::Unavailable, "The secret store does not answer; try again. Retrying is safe.")
            .retry_after(Duration::from_secs(1))
            .because(error)
    }
}

impl From<VmError> for AppError {
    fn from(error: VmError) -> Self {
        match &error {
            VmError::Gone => {
                Self::new(ErrorCode::VmNotReady, "The VM is gone; the next use makes a new one. Try again.")
                    .retry_after(Duration::from_secs(1))
            }
            VmError::Paused => {
                Self::new(ErrorCode::VmNotReady, "The VM was paused; the next use resumes it. Try again.")
                    .retry_after(Duration::from_secs(1))
            }
            VmError::Busy { retry_after } => {
                Self::new(ErrorCode::Unavailable, "The VM's server is busy; try again. Retrying is safe.")
                    .retry_after(*retry_after)
            }
            VmError::Unavailable(_) => Self::new(
                ErrorCode::Unavailable,
                "The VM's server does not answer; try again. Retrying is safe.",
            )
            .retry_after(Duration::from_secs(2)),
            VmError::NotFound(what) => Self::new(ErrorCode::NotFound, format!("The VM has no {what}.")),
            VmError::Refused(text) => Self::new(ErrorCode::VmFailed, text.clone()),
        }
        .because(error)
    }
}
