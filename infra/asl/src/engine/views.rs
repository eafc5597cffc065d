//! What the operations take and give.

use std::str::FromStr;

use jiff::Timestamp;
use serde_json::Value;

use super::ApiError;

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutionStatus {
    /// Not ended.
    Running,
    /// Ended in a state that ends the machine well.
    Succeeded,
    /// Ended by an error or in a Fail state.
    Failed,
    /// Ended because the machine's TimeoutSeconds were over.
    TimedOut,
    /// Ended by StopExecution.
    Aborted,
}

impl ExecutionStatus {
    /// As AWS writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Aborted => "ABORTED",
        }
    }
}

impl FromStr for ExecutionStatus {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        [Self::Running, Self::Succeeded, Self::Failed, Self::TimedOut, Self::Aborted]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| ApiError::Validation(format!("{text:?} is not the status of an execution")))
    }
}

/// An execution as DescribeExecution shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    pub(super) id: i64,
    /// Its ARN.
    pub arn: String,
    /// Its machine's ARN.
    pub machine_arn: String,
    /// Its machine's name.
    pub machine: String,
    /// Its own name.
    pub name: String,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// Its input, as JSON.
    pub input: String,
    /// Its output, as JSON; only if it succeeded.
    pub output: Option<String>,
    /// The error's name; only if it failed, or was stopped with one.
    pub error: Option<String>,
    /// The error's cause; likewise.
    pub cause: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// States entered and retries begun, which is what AWS bills.
    pub transitions: u64,
}

/// What StartExecution answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedExecution {
    /// The execution's ARN.
    pub arn: String,
    /// When it was started.
    pub started_at: Timestamp,
}

/// One execution in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionSummary {
    /// Its ARN.
    pub arn: String,
    /// Its machine's ARN.
    pub machine_arn: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
}

/// Which executions to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only those with this status.
    pub status: Option<ExecutionStatus>,
    /// At most this many: 1 to 1000, 100 if not said.
    pub limit: Option<usize>,
    /// The token of the page before.
    pub next_token: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The way to the next page, if there is one.
    pub next_token: Option<String>,
}

/// An event of an execution's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEvent {
    /// Its number, from 1 without gaps.
    pub id: i64,
    /// The number of the event that led to it.
    pub previous_id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// Its type's name in the AWS API.
    pub kind: String,
    /// The details, under the field name that the AWS API has for the type.
    pub details: serde_json::Map<String, Value>,
}

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// The newest first.
    pub newest_first: bool,
    /// At most this many: 1 to 1000, 100 if not said.
    pub limit: Option<usize>,
    /// The token of the page before.
    pub next_token: Option<String>,
}
