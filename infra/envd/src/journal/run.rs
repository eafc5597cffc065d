//! A run that this daemon started and looks after.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use pvm_e2b_wire::journal::RunState;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::capture::Capture;
use super::record::{self, Exit, Spec};
use crate::log;
use crate::process::spawn::{self, Ends, Started};
use crate::process::status::signal_name;
use crate::reaper::Ended;

/// How long output may still come after the process ended, from what it left behind. Later output is captured
/// too, but no longer waited for.
const DRAIN: Duration = Duration::from_secs(2);

/// Bytes read from a pipe at once: all that a pipe holds.
const PIPE_CHUNK: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// What was asked for.
    pub spec: Spec,
    /// Its process.
    pub pid: u32,
    /// Standard output.
    pub stdout: Capture,
    /// Standard error.
    pub stderr: Capture,
    /// Its end.
    pub exit: watch::Sender<Option<Exit>>,
    /// More output, or the end.
    pub news: Notify,
    started: Instant,
    alive: AtomicBool,
    killed: AtomicBool,
    timed_out: AtomicBool,
}

impl Run {
    /// A run whose process was started just now.
    pub fn new(folder: PathBuf, spec: Spec, pid: u32) -> Self {
        Self {
            stdout: Capture::create(&folder, "stdout", spec.output_limit),
            stderr: Capture::create(&folder, "stderr", spec.output_limit),
            folder,
            spec,
            pid,
            exit: watch::Sender::new(None),
            news: Notify::new(),
            started: Instant::now(),
            alive: AtomicBool::new(true),
            killed: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Whether its process runs.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// How long it has run so far.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Signals its whole process group; nothing when the process has ended.
    pub fn kill(&self, signal: Signal) {
        if self.is_alive() {
            self.killed.store(true, Ordering::Release);
            // It may be ending right now.
            spawn::signal_group(self.pid, signal).ok();
        }
    }

    /// Looks after the run until it is over and nothing holds its output open. `finished` is called when
    /// everything of it is on disk.
    pub fn look_after(
        self: Arc<Self>,
        started: Started,
        input: Option<Bytes>,
        limit: Option<Duration>,
        finished: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let Ends::Pipes { stdin, stdout, stderr } = started.ends else {
            return Err(io::Error::other("a run has no terminal"));
        };
        let mut pumps = JoinSet::new();
        pumps.spawn(Arc::clone(&self).pump(pipe::Receiver::from_owned_fd(stdout)?, Stream::Out));
        pumps.spawn(Arc::clone(&self).pump(pipe::Receiver::from_owned_fd(stderr)?, Stream::Error));
        if let (Some(stdin), Some(input)) = (stdin, input) {
            let mut stdin = pipe::Sender::from_owned_fd(stdin)?;
            // A process that does not read its input is free not to.
            tokio::spawn(async move { stdin.write_all(&input).await.ok() });
        }
        tokio::spawn(async move {
            let ended = self.wait(started.ended, limit).await;
            self.alive.store(false, Ordering::Release);
            let closed = async { while pumps.join_next().await.is_some() {} };
            let all_read = timeout(DRAIN, closed).await.is_ok();
            let stored = self.finish(ended).await;
            if !all_read {
                // Something in the background goes on writing; it keeps being captured.
                while pumps.join_next().await.is_some() {}
            }
            // While the end is not on disk, this is all there is of it.
            if stored {
                finished();
            }
        });
        Ok(())
    }

    async fn wait(
        &self,
        mut ended: tokio::sync::oneshot::Receiver<Ended>,
        limit: Option<Duration>,
    ) -> Option<Ended> {
        let Some(limit) = limit else { return ended.await.ok() };
        tokio::select! {
            ended = &mut ended => ended.ok(),
            () = sleep(limit) => {
                self.timed_out.store(true, Ordering::Release);
                spawn::signal_group(self.pid, Signal::KILL).ok();
                ended.await.ok()
            }
        }
    }

    /// Tells and stores the end; whether it is on disk.
    async fn finish(&self, ended: Option<Ended>) -> bool {
        let state = if self.timed_out.load(Ordering::Acquire) {
            RunState::TimedOut
        } else if self.killed.load(Ordering::Acquire) {
            RunState::Killed
        } else if ended.is_some() {
            RunState::Exited
        } else {
            RunState::Lost
        };
        let exit = Exit {
            state,
            exit_code: match ended {
                Some(Ended::Exited(code)) => Some(code),
                _ => None,
            },
            signal: match ended {
                Some(Ended::Signaled { signal, .. }) => Some(signal_name(signal)),
                _ => None,
            },
            reason: None,
            ended_at: Timestamp::now(),
            duration_ms: self.elapsed_ms(),
        };
        // Who waits need not wait for the disk.
        self.exit.send_replace(Some(exit.clone()));
        self.news.notify_waiters();
        let folder = self.folder.clone();
        let stored = tokio::task::spawn_blocking(move || record::write_exit(&folder, &exit)).await;
        match stored.map_err(io::Error::other).flatten() {
            Ok(()) => true,
            Err(error) => {
                log::warn("the end of a run was not stored", serde_json::json!({"error": error.to_string()}));
                false
            }
        }
    }

    async fn pump(self: Arc<Self>, pipe: pipe::Receiver, stream: Stream) {
        while pipe.readable().await.is_ok() {
            match self.read_now(&pipe, stream) {
                Ok(0) => break,
                Ok(_) => self.news.notify_waiters(),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => break,
            }
        }
    }

    /// Takes what is in the pipe. The buffer lives for just this moment, so that idle runs hold none.
    fn read_now(&self, pipe: &pipe::Receiver, stream: Stream) -> io::Result<usize> {
        let mut buffer = BytesMut::with_capacity(PIPE_CHUNK);
        let length = pipe.try_read_buf(&mut buffer)?;
        match stream {
            Stream::Out => self.stdout.write(&buffer),
            Stream::Error => self.stderr.write(&buffer),
        }
        Ok(length)
    }
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Out,
    Error,
}
