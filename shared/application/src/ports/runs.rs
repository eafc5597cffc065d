//! Commands, through the VM's run journal.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::vm::VmError;

/// A run of the VM's journal: what to start.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Its id in the journal; starts at most once.
    pub run_id: String,
    /// Shell line for `bash -l -c`.
    pub command: String,
    /// Absolute directory.
    pub working_dir: String,
    /// Environment.
    pub env: std::collections::BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Option<String>,
    /// `user` or `root`.
    pub user: String,
    /// Seconds until it is killed; `None` for services.
    pub timeout_secs: Option<u64>,
}

/// How a journaled run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Under way.
    Running,
    /// Ended by itself.
    Exited,
    /// Killed at its time limit.
    TimedOut,
    /// Killed on request.
    Killed,
    /// Its outcome cannot be known: the VM's boot ended in between.
    Lost,
}

/// Output of a run from an offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes.
    pub data: Bytes,
    /// Where they start in the stream.
    pub offset: u64,
    /// The offset to ask for next.
    pub next: u64,
    /// Bytes the stream has had so far.
    pub total: u64,
    /// Bytes cut from its middle.
    pub dropped: u64,
}

/// A report on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// How it stands.
    pub state: RunState,
    /// Exit code, where it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Milliseconds so far, or in all.
    pub duration_ms: u64,
    /// Standard output from the offset asked for.
    pub stdout: Chunk,
    /// Standard error from the offset asked for.
    pub stderr: Chunk,
}

/// Which output to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFrom {
    /// Offset of standard output.
    pub stdout: u64,
    /// Offset of standard error.
    pub stderr: u64,
    /// At most this many bytes of each.
    pub limit: u64,
    /// Wait at most this long for something new.
    pub wait: Duration,
}

/// Runs commands exactly once, through the VM's run journal.
pub trait RunCommands: Send + Sync {
    /// Starts the run unless its id was started before, then waits up to `wait` for its end and reports with output
    /// from the beginning. Calling it again attaches; it never starts twice. [`VmError::Gone`] and [`VmError::Paused`]
    /// say for certain that this call started nothing; where that is not certain the error is
    /// [`VmError::Unavailable`].
    fn start_run(
        &self,
        vm_id: &str,
        spec: &RunSpec,
        wait: Duration,
    ) -> impl Future<Output = Result<RunReport, VmError>> + Send;
    /// Reports on a run; `None` where the journal does not know it (it was never started in this VM).
    fn read_run(
        &self,
        vm_id: &str,
        run_id: &str,
        from: ReadFrom,
    ) -> impl Future<Output = Result<Option<RunReport>, VmError>> + Send;
    /// Kills the run's whole process group; an unknown or ended one is fine.
    fn kill_run(&self, vm_id: &str, run_id: &str) -> impl Future<Output = Result<(), VmError>> + Send;
}
