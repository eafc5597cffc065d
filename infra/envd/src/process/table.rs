//! Every process started through the daemon: those that run, and those that ended a short while ago.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::process::{ProcessConfig, ProcessInfo, ProcessInput, ProcessSelector, PtySize};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::time::{Duration, Instant};

use super::hub::{Budget, Hub};
use super::spawn;
use super::terminal::Terminal;

/// How long the end of a process is kept for a late `Connect`.
const KEPT_AFTER_END: Duration = Duration::from_mins(5);
/// How many ended processes are kept at most.
const KEPT_PROCESSES: usize = 256;
/// Bytes of output kept of all ended processes together; beyond, the oldest keep only their end.
const KEPT_OUTPUT: u64 = 16 * 1024 * 1024;

/// One process.
#[derive(Debug)]
pub struct Process {
    /// What was asked to run.
    pub config: ProcessConfig,
    /// The caller's name for it.
    pub tag: Option<String>,
    /// Its process id.
    pub pid: u32,
    /// Its output.
    pub hub: Arc<Hub>,
    /// Where input goes.
    pub input: Input,
    /// Whether it runs; its number must not be signalled any more afterwards.
    pub running: AtomicBool,
    /// Told when it is no longer among the running ones.
    pub retired: tokio::sync::Notify,
}

/// Where a process takes input from.
#[derive(Debug)]
pub enum Input {
    /// A pipe, until it is closed. The lock keeps writers in order.
    Pipe(tokio::sync::Mutex<Option<pipe::Sender>>),
    /// A terminal. The lock keeps writers in order.
    Terminal(Terminal, tokio::sync::Mutex<()>),
}

fn wrong_state(message: impl Into<String>) -> ConnectError {
    ConnectError::new(Code::FailedPrecondition, message)
}

impl Process {
    /// Writes input, waiting while the process does not read.
    ///
    /// # Errors
    /// [`Code::FailedPrecondition`] when the process takes no such input, any more or at all.
    pub async fn write(&self, input: ProcessInput) -> Result<(), ConnectError> {
        match (input.stdin, input.pty) {
            (Some(data), None) => self.write_stdin(data).await,
            (None, Some(data)) => self.write_terminal(data).await,
            _ => Err(ConnectError::new(Code::Unimplemented, "input must be either stdin or pty")),
        }
    }

    async fn write_stdin(&self, data: Bytes) -> Result<(), ConnectError> {
        let Input::Pipe(pipe) = &self.input else {
            return Err(wrong_state("the process has a terminal: write to pty, not to stdin"));
        };
        let mut pipe = pipe.lock().await;
        let Some(sender) = pipe.as_mut() else {
            return Err(wrong_state("stdin is not enabled or was closed"));
        };
        let written = sender.write_all(&data).await;
        if written.is_err() {
            *pipe = None;
        }
        written.map_err(|error| self.write_error("stdin", &error))
    }

    async fn write_terminal(&self, data: Bytes) -> Result<(), ConnectError> {
        let Input::Terminal(terminal, order) = &self.input else {
            return Err(wrong_state("the process has no terminal: write to stdin, not to pty"));
        };
        let _order = order.lock().await;
        terminal.write(&data).await.map_err(|error| self.write_error("pty", &error))
    }

    fn write_error(&self, name: &str, error: &io::Error) -> ConnectError {
        let gone = error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(libc::EIO);
        let code = if gone { Code::FailedPrecondition } else { Code::Internal };
        ConnectError::new(code, format!("writing to {name} of process {}: {error}", self.pid))
    }

    /// Ends the input of a process on pipes; a second time does nothing.
    ///
    /// # Errors
    /// [`Code::FailedPrecondition`] for a process on a terminal.
    pub async fn close_stdin(&self) -> Result<(), ConnectError> {
        let Input::Pipe(pipe) = &self.input else {
            return Err(wrong_state(
                "the process has a terminal, whose input cannot be closed: send Ctrl+D (0x04)",
            ));
        };
        *pipe.lock().await = None;
        Ok(())
    }

    /// Sets the size of the process's terminal.
    ///
    /// # Errors
    /// [`Code::FailedPrecondition`] for a process without one.
    pub fn resize(&self, size: PtySize) -> Result<(), ConnectError> {
        let Input::Terminal(terminal, _) = &self.input else {
            return Err(wrong_state("the process has no terminal"));
        };
        terminal.resize(size).map_err(|error| ConnectError::new(Code::Internal, format!("resizing: {error}")))
    }

    /// Signals the process and what it started in its group. Nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.running.load(Ordering::Acquire) {
            // It may be ending right now.
            spawn::signal_group(self.pid, signal).ok();
        }
    }

    /// What `List` shows of it.
    pub fn info(&self) -> ProcessInfo {
        ProcessInfo { config: self.config.clone(), pid: self.pid, tag: self.tag.clone() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Processes {
    tables: Mutex<Tables>,
    /// What all hubs keep together.
    pub output: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Tables {
    running: HashMap<u32, Arc<Process>>,
    /// Oldest first.
    ended: Vec<(Instant, Arc<Process>)>,
}

impl Processes {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a process that was started just now.
    pub fn add(&self, process: Arc<Process>) {
        let mut tables = self.lock();
        // The number may have been another's a moment ago.
        tables.ended.retain(|(_, ended)| ended.pid != process.pid);
        tables.running.insert(process.pid, process);
    }

    /// Moves a process to the ended ones.
    pub fn retire(&self, process: &Arc<Process>) {
        let now = Instant::now();
        let mut tables = self.lock();
        if tables.running.get(&process.pid).is_some_and(|current| Arc::ptr_eq(current, process)) {
            tables.running.remove(&process.pid);
        }
        tables.ended.push((now, Arc::clone(process)));
        tables.ended.retain(|(at, _)| now.duration_since(*at) < KEPT_AFTER_END);
        let excess = tables.ended.len().saturating_sub(KEPT_PROCESSES);
        tables.ended.drain(..excess);
        let mut kept = 0;
        for (_, ended) in tables.ended.iter().rev() {
            kept += ended.hub.kept();
            if kept > KEPT_OUTPUT {
                ended.hub.forget_output();
            }
        }
    }

    /// Those that run, by process id.
    pub fn running(&self) -> Vec<Arc<Process>> {
        let mut processes: Vec<_> = self.lock().running.values().cloned().collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    /// A process that runs.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Unimplemented`] when the selector names nothing.
    pub fn find_running(&self, selector: &ProcessSelector) -> Result<Arc<Process>, ConnectError> {
        self.find(selector, false)
    }

    /// A process that runs or has ended a short while ago.
    ///
    /// # Errors
    /// As [`Processes::find_running`].
    pub fn find_kept(&self, selector: &ProcessSelector) -> Result<Arc<Process>, ConnectError> {
        self.find(selector, true)
    }

    fn find(&self, selector: &ProcessSelector, ended_too: bool) -> Result<Arc<Process>, ConnectError> {
        let matches = |process: &Process| match selector {
            ProcessSelector { pid: Some(pid), .. } => process.pid == *pid,
            ProcessSelector { tag, .. } => tag.is_some() && process.tag == *tag,
        };
        let tables = self.lock();
        let running = match selector.pid {
            Some(pid) => tables.running.get(&pid),
            None => tables.running.values().find(|process| matches(process)),
        };
        let now = Instant::now();
        let ended = tables
            .ended
            .iter()
            .rev()
            .filter(|(at, _)| ended_too && now.duration_since(*at) < KEPT_AFTER_END)
            .map(|(_, process)| process)
            .find(|process| matches(process));
        running.or(ended).cloned().ok_or_else(|| match (selector.pid, &selector.tag) {
            (Some(pid), _) => ConnectError::new(Code::NotFound, format!("process with pid {pid} not found")),
            (None, Some(tag)) => {
                ConnectError::new(Code::NotFound, format!("process with tag {tag} not found"))
            }
            (None, None) => {
                ConnectError::new(Code::Unimplemented, "the process selector must name a pid or a tag")
            }
        })
    }
}
