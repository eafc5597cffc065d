//! Why an operation was refused, by the names that AWS gives.

use crate::limits;
use crate::store::StoreError;

/// A refused operation. [`ApiError::code`] is the name that the AWS SDKs know.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// The text is no ARN of the wanted kind.
    #[error("{0:?} is not the ARN of a state machine or an execution")]
    InvalidArn(String),
    /// An execution's name has forbidden characters or a wrong length.
    #[error(
        "{0:?} is not a good name for an execution: 1 to 80 characters without blanks, control characters \
         and any of <>{{}}[]?*\"#%\\^|~`$&,;:/"
    )]
    InvalidName(String),
    /// The input is no JSON.
    #[error("the execution's input is not valid JSON: {0}")]
    InvalidExecutionInput(String),
    /// The output sent for a token is no JSON.
    #[error("the task's output is not valid JSON: {0}")]
    InvalidOutput(String),
    /// The text was never a token of this engine.
    #[error("the task token is malformed")]
    InvalidToken,
    /// No machine of that name is loaded.
    #[error("there is no state machine {0:?}")]
    StateMachineDoesNotExist(String),
    /// No execution of that name is known.
    #[error("there is no execution {0:?}")]
    ExecutionDoesNotExist(String),
    /// The name is taken, by an execution with another input or by one that has ended.
    #[error("an execution with this name already exists: {0}")]
    ExecutionAlreadyExists(String),
    /// The token's execution is not known.
    #[error("there is no task with this token")]
    TaskDoesNotExist,
    /// The task does not wait any more: it was answered, timed out or stopped.
    #[error("the task with this token no longer waits for an answer")]
    TaskTimedOut,
    /// An argument is out of its range.
    #[error("{0}")]
    Validation(String),
    /// The store cannot do it now. The operation may be tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApiError {
    /// The exception's name in the AWS API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArn(_) => "InvalidArn",
            Self::InvalidName(_) => "InvalidName",
            Self::InvalidExecutionInput(_) => "InvalidExecutionInput",
            Self::InvalidOutput(_) => "InvalidOutput",
            Self::InvalidToken => "InvalidToken",
            Self::StateMachineDoesNotExist(_) => "StateMachineDoesNotExist",
            Self::ExecutionDoesNotExist(_) => "ExecutionDoesNotExist",
            Self::ExecutionAlreadyExists(_) => "ExecutionAlreadyExists",
            Self::TaskDoesNotExist => "TaskDoesNotExist",
            Self::TaskTimedOut => "TaskTimedOut",
            Self::Validation(_) => "ValidationException",
            Self::Store(_) => "ServiceUnavailable",
        }
    }

    pub(super) fn too_long(what: &str, bytes: usize) -> Self {
        Self::Validation(format!(
            "{what} has {bytes} bytes; at most {} are allowed",
            limits::MAX_PAYLOAD_BYTES
        ))
    }
}
