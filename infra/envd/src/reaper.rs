//! Collects the exit statuses of children, ours and orphans alike.
//!
//! As PID 1 the daemon inherits every orphan of the sandbox, so one loop waits for any child. Who started a
//! process asks here for its end; statuses of strangers are dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled {
        /// Number of the signal.
        signal: i32,
        /// Whether a core was written.
        core_dumped: bool,
    },
}

impl Ended {
    fn from_status(status: WaitStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Exited(code));
        }
        let signal = status.terminating_signal()?;
        // The core bit of a wait status, which has no accessor.
        Some(Self::Signaled { signal, core_dumped: status.as_raw() & 0x80 != 0 })
    }
}

/// The one place that waits for children.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<Ended>>>>,
}

impl Reaper {
    /// Starts collecting.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn start() -> std::io::Result<Self> {
        let reaper = Self::default();
        let mut children = signal(SignalKind::child())?;
        let collector = reaper.clone();
        tokio::spawn(async move {
            loop {
                collector.collect();
                if children.recv().await.is_none() {
                    break;
                }
            }
        });
        Ok(reaper)
    }

    /// Asks for the end of a child that was started just now, before anything was awaited: the collector runs
    /// on the same thread, so it cannot have seen the end yet.
    pub fn register(&self, pid: u32) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(pid.cast_signed(), sender);
        receiver
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, oneshot::Sender<Ended>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self) {
        // One signal may stand for many children, and an interrupted call for nothing.
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let Some(ended) = Ended::from_status(status) else { continue };
                    if let Some(sender) = self.lock().remove(&pid.as_raw_nonzero().get()) {
                        // Nobody may be interested any more.
                        sender.send(ended).ok();
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
