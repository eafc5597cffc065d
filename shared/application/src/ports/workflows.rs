//! The workflow engine (Step Functions).

use std::future::Future;

/// What went wrong in the workflow engine.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// It could not be reached or failed; trying again is safe.
    #[error("the workflow engine did not answer")]
    Unavailable(#[source] anyhow::Error),
}

/// Which state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Works off one user message.
    RunTurn,
    /// Sets a VM up or tears it down.
    VmLifecycle,
}

/// What there is after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// An execution that works: it was started now, or goes on since an earlier start.
    Open,
    /// One that was started before and has ended.
    Closed,
}

/// Starts executions.
pub trait StartExecution: Send + Sync {
    /// Starts `name` with `input`. A name that was started before is a success that starts nothing.
    fn start(
        &self,
        machine: Machine,
        name: &str,
        input: &serde_json::Value,
    ) -> impl Future<Output = Result<Started, WorkflowError>> + Send;
}

/// Stops executions.
pub trait StopExecution: Send + Sync {
    /// Stops `name`; one that has ended or never was is fine.
    fn stop(
        &self,
        machine: Machine,
        name: &str,
        cause: &str,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send;
}

/// Answers tasks that wait for a token.
pub trait SendTask: Send + Sync {
    /// The task is done. Answers false where nobody waits for the token any more.
    fn send_success(
        &self,
        token: &str,
        output: &serde_json::Value,
    ) -> impl Future<Output = Result<bool, WorkflowError>> + Send;
}
