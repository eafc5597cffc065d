//! One call under way: the VM, who calls, and how long to wait. Every tool that changes something does it in one run of
//! the VM's journal whose id is the call's id, so that repeating the call attaches to that run.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_application::error::AppError;
use pvm_application::ports::{
    Ambient, Clock, ConnectVm, ReadFrom, RunCommands, RunReport, RunSpec, RunState, StartExecution, VmError,
    VmFiles,
};
use pvm_application::ports_tools::{ToolContext, ToolProgress, ToolResult};
use pvm_application::store::WriteStore;
use pvm_contracts::tools::RunAs;
use pvm_domain::Invalid;
use serde::Serialize;

use crate::output;

/// What the tools need from outside.
pub trait Ports: Send + Sync {
    /// Records.
    type Store: WriteStore;
    /// The VM.
    type Vm: RunCommands + VmFiles + ConnectVm;
    /// Workflows (services that wake a VM).
    type Workflow: StartExecution;
    /// Clock and ids.
    type Ambient: Ambient;
    /// Records.
    fn store(&self) -> &Self::Store;
    /// The VM.
    fn vm(&self) -> &Self::Vm;
    /// Workflows.
    fn workflow(&self) -> &Self::Workflow;
    /// Clock and ids.
    fn ambient(&self) -> &Self::Ambient;
}

/// Bytes of each stream fetched for a finished run.
const FETCH_BYTES: u64 = 1024 * 1024;
/// The first pause between looks at a run that writes all the time; looks without it would be one request per line.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// When to look again at a call that still runs.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Environment of every run of a tool: programs write plain text, open no pager and ask nothing.
const PLAIN_ENV: [(&str, &str); 8] = [
    ("TERM", "dumb"),
    ("NO_COLOR", "1"),
    ("PAGER", "cat"),
    ("GIT_PAGER", "cat"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("PIP_NO_INPUT", "1"),
    ("LANG", "C.UTF-8"),
];

/// Whether a call may start its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It may.
    Start,
    /// It was started before; if the VM does not know it, it was lost.
    Poll,
}

/// Why a tool's code stops before its end.
pub(crate) enum Stop {
    /// The run goes on; look again later.
    Running { output: String },
    /// A result that the model should read.
    Result(Box<ToolResult>),
    /// The VM failed.
    Vm(VmError),
}

impl Stop {
    /// A failure that the model should read.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::Result(Box::new(ToolResult::error(text)))
    }
}

impl From<VmError> for Stop {
    fn from(error: VmError) -> Self {
        match error {
            VmError::Refused(text) => Self::error(format!("The VM refused: {text}")),
            VmError::NotFound(what) => Self::error(format!("The VM has no {what}.")),
            VmError::Gone | VmError::Paused | VmError::Busy { .. } | VmError::Unavailable(_) => {
                Self::Vm(error)
            }
        }
    }
}

impl From<Invalid> for Stop {
    fn from(invalid: Invalid) -> Self {
        Self::error(format!("`{}` {}. Nothing was done; correct the call.", invalid.field, invalid.reason))
    }
}

impl From<AppError> for Stop {
    fn from(error: AppError) -> Self {
        use pvm_application::error::ErrorCode as Code;
        match error.code {
            Code::Unavailable | Code::VmNotReady => {
                Self::Vm(VmError::Busy { retry_after: error.retry_after.unwrap_or(Duration::from_secs(1)) })
            }
            Code::Internal => Self::Vm(VmError::Unavailable(
                error.source.unwrap_or_else(|| AppErrorText(error.detail).into()),
            )),
            _ => Self::error(error.for_model()),
        }
    }
}

/// The text of an error that has no cause of its own.
#[derive(Debug)]
struct AppErrorText(String);
impl std::fmt::Display for AppErrorText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for AppErrorText {}

/// What a tool's code answers.
pub(crate) type Answer = Result<ToolResult, Stop>;

/// A result as text and data.
pub(crate) fn result<T: Serialize>(is_error: bool, text: String, data: &T) -> ToolResult {
    ToolResult { is_error, text, structured: serde_json::to_value(data).ok(), output_path: None }
}

/// One call.
pub(crate) struct Call<'a, P> {
    pub(crate) ports: &'a P,
    pub(crate) context: &'a ToolContext,
    pub(crate) mode: Mode,
    pub(crate) wait: Duration,
}

impl<P: Ports> Call<'_, P> {
    pub(crate) fn vm_id(&self) -> &str {
        &self.context.vm_id
    }

    /// The run of this call, in the context's directory, with a plain environment.
    pub(crate) fn run_of(&self, command: String, user: RunAs, timeout_secs: u64) -> RunSpec {
        let mut env: BTreeMap<String, String> =
            PLAIN_ENV.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        env.extend(self.context.env.clone());
        RunSpec {
            run_id: self.context.call_id.clone(),
            command,
            working_dir: self.context.working_dir.clone(),
            env,
            stdin: None,
            user: user.as_str().to_owned(),
            timeout_secs: Some(timeout_secs),
        }
    }

    /// Runs `spec` once over all repetitions of this call, and reports when it has ended.
    pub(crate) async fn run(&self, spec: &RunSpec) -> Result<RunReport, Stop> {
        let report = match self.mode {
            Mode::Start => self.ports.vm().start_run(self.vm_id(), spec, self.wait).await?,
            Mode::Poll => match self.watch(&spec.run_id, self.wait).await? {
                Some(report) => report,
                None => return Err(Stop::Vm(VmError::NotFound(format!("run {}", spec.run_id)))),
            },
        };
        if report.state == RunState::Running {
            let output = self.latest(&spec.run_id, &report).await?;
            return Err(Stop::Running { output });
        }
        Ok(report)
    }

    /// Reports on a run with its output from the beginning, after waiting for its end for up to `wait`; `None` where the
    /// journal does not know it.
    pub(crate) async fn watch(&self, run_id: &str, wait: Duration) -> Result<Option<RunReport>, VmError> {
        let vm = self.ports.vm();
        let from_start = ReadFrom { stdout: 0, stderr: 0, limit: FETCH_BYTES, wait: Duration::ZERO };
        let Some(mut report) = vm.read_run(self.vm_id(), run_id, from_start).await? else { return Ok(None) };
        let started = self.ports.ambient().now();
        while report.state == RunState::Running {
            let passed: Duration =
                self.ports.ambient().now().duration_since(started).try_into().unwrap_or_default();
            let Some(left) = wait.checked_sub(passed).filter(|left| !left.is_zero()) else { break };
            let from = ReadFrom {
                stdout: report.stdout.total,
                stderr: report.stderr.total,
                limit: 1,
                wait: left.min(Duration::from_secs(20)),
            };
            let Some(next) = vm.read_run(self.vm_id(), run_id, from).await? else { return Ok(None) };
            if next.state == RunState::Running {
                report = next;
                self.ports.ambient().sleep(LOOK_PAUSE.min(left)).await;
            } else {
                return vm.read_run(self.vm_id(), run_id, from_start).await;
            }
        }
        if report.state == RunState::Running {
            return vm.read_run(self.vm_id(), run_id, from_start).await;
        }
        Ok(Some(report))
    }

    /// The end of what a running run has written so far.
    async fn latest(&self, run_id: &str, report: &RunReport) -> Result<String, VmError> {
        let budget = output::PROGRESS_BYTES as u64;
        let whole = |chunk: &pvm_application::ports::Chunk| {
            chunk.offset == 0 && chunk.data.len() as u64 >= chunk.total
        };
        if whole(&report.stdout) && whole(&report.stderr) {
            return Ok(output::latest(&report.stdout.data, &report.stderr.data));
        }
        let from = ReadFrom {
            stdout: report.stdout.total.saturating_sub(budget),
            stderr: report.stderr.total.saturating_sub(budget),
            limit: budget,
            wait: Duration::ZERO,
        };
        let tail = self.ports.vm().read_run(self.vm_id(), run_id, from).await?;
        Ok(tail.map(|tail| output::latest(&tail.stdout.data, &tail.stderr.data)).unwrap_or_default())
    }

    /// The last `most` bytes of one stream of a run, where the report does not have them.
    pub(crate) async fn tail(
        &self,
        run_id: &str,
        report: &RunReport,
        most: u64,
    ) -> Result<(bytes::Bytes, bytes::Bytes), VmError> {
        let from = ReadFrom {
            stdout: report.stdout.total.saturating_sub(most),
            stderr: report.stderr.total.saturating_sub(most),
            limit: most,
            wait: Duration::ZERO,
        };
        let tail = self.ports.vm().read_run(self.vm_id(), run_id, from).await?;
        Ok(tail.map(|tail| (tail.stdout.data, tail.stderr.data)).unwrap_or_default())
    }
}

/// How a tool's code ended, as the port tells it.
pub(crate) fn progress(answer: Answer) -> Result<ToolProgress, VmError> {
    match answer {
        Ok(result) => Ok(ToolProgress::Done(result.bounded())),
        Err(Stop::Result(result)) => Ok(ToolProgress::Done(result.bounded())),
        Err(Stop::Running { output }) => Ok(ToolProgress::Running { delay: LOOK_AGAIN, output }),
        Err(Stop::Vm(error)) => Err(error),
    }
}
