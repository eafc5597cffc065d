//! An error as a state machine sees it: a name that `ErrorEquals` can match, and a cause for people.

use serde_json::{Value, json};

/// Matches every error except `States.Runtime` and `States.DataLimitExceeded`.
pub(crate) const ALL: &str = "States.ALL";
/// Matches every error that `States.ALL` matches, except `States.Timeout`.
pub(crate) const TASK_FAILED: &str = "States.TaskFailed";
pub(crate) const TIMEOUT: &str = "States.Timeout";
/// Ends the execution: neither Retry nor Catch sees it.
pub(crate) const RUNTIME: &str = "States.Runtime";
pub(crate) const DATA_LIMIT_EXCEEDED: &str = "States.DataLimitExceeded";
pub(crate) const NO_CHOICE_MATCHED: &str = "States.NoChoiceMatched";
pub(crate) const RESULT_PATH_MATCH_FAILURE: &str = "States.ResultPathMatchFailure";

/// Names beginning with `States.` that a definition may list in `ErrorEquals`.
pub(crate) const RESERVED_NAMES: [&str; 10] = [
    ALL,
    TASK_FAILED,
    TIMEOUT,
    DATA_LIMIT_EXCEEDED,
    NO_CHOICE_MATCHED,
    RESULT_PATH_MATCH_FAILURE,
    "States.ParameterPathFailure",
    "States.Permissions",
    "States.BranchFailed",
    "States.HeartbeatTimeout",
];

/// An error raised in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) error: String,
    pub(crate) cause: String,
}

impl Failure {
    pub(crate) fn new(error: &str, cause: impl Into<String>) -> Self {
        Self { error: error.to_owned(), cause: cause.into() }
    }

    /// A fault of definition and data against each other, which ends the execution.
    pub(crate) fn runtime(cause: impl Into<String>) -> Self {
        Self::new(RUNTIME, cause)
    }

    /// A payload over the size limit; `what` names it.
    pub(crate) fn too_large(what: &str, bytes: usize) -> Self {
        Self::new(
            DATA_LIMIT_EXCEEDED,
            format!(
                "The {what} has {bytes} bytes; at most {} are allowed.",
                crate::limits::MAX_PAYLOAD_BYTES
            ),
        )
    }

    pub(crate) fn timeout() -> Self {
        // AWS gives no cause for it.
        Self::new(TIMEOUT, "")
    }

    /// Whether one of the names in `error_equals` stands for this error.
    pub(crate) fn matches(&self, error_equals: &[String]) -> bool {
        if self.error == RUNTIME {
            return false;
        }
        error_equals.iter().any(|name| match name.as_str() {
            ALL => self.error != DATA_LIMIT_EXCEEDED,
            TASK_FAILED => self.error != DATA_LIMIT_EXCEEDED && self.error != TIMEOUT,
            name => name == self.error,
        })
    }

    /// What a Catch hands to the next state.
    pub(crate) fn to_output(&self) -> Value {
        json!({ "Error": self.error, "Cause": self.cause })
    }
}
