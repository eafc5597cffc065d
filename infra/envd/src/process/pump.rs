//! Carries the output of a process into its hub, and decides when there is no more.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};

use super::hub::{Hub, Source};
use super::terminal::Terminal;

/// Bytes read from a pipe at once.
const PIPE_CHUNK: usize = 32 * 1024;
/// Bytes read from a terminal at once.
const TERMINAL_CHUNK: usize = 16 * 1024;
/// How long output may still come after a process ended, from what it left behind.
const DRAIN: Duration = Duration::from_secs(2);
/// Silence after which no more is expected, when something left behind keeps the pipe open.
const QUIET: Duration = Duration::from_millis(100);

/// The pumps of one process. They run until the last holder of the other end is gone, since a child left in the
/// background would be stopped by a broken pipe.
#[derive(Debug, Default)]
pub struct Pumps {
    tasks: JoinSet<()>,
}

impl Pumps {
    /// Pumps a pipe.
    pub fn pipe(&mut self, pipe: pipe::Receiver, source: Source, hub: &Arc<Hub>) {
        let hub = Arc::clone(hub);
        self.tasks.spawn(async move {
            while pipe.readable().await.is_ok() {
                match read_now(&pipe) {
                    Some(Ok(data)) if data.is_empty() => break,
                    Some(Ok(data)) => hub.push(source, data).await,
                    Some(Err(())) => break,
                    None => {}
                }
            }
        });
    }

    /// Pumps a terminal.
    pub fn terminal(&mut self, terminal: Terminal, hub: &Arc<Hub>) {
        let hub = Arc::clone(hub);
        self.tasks.spawn(async move {
            let mut buffer = vec![0; TERMINAL_CHUNK];
            while let Ok(length @ 1..) = terminal.read(&mut buffer).await {
                hub.push(Source::Pty, Bytes::copy_from_slice(&buffer[..length])).await;
            }
        });
    }

    /// Call when the process has ended: returns when all its output is in the hub. That is when every pipe is
    /// closed, or after `QUIET` without output, at most `DRAIN` later. Waiting for a slow reader does not
    /// count. What still holds a pipe then is pumped on in the background.
    pub async fn drain(mut self, hub: &Hub) {
        let mut left = DRAIN;
        let mut seen = hub.progress().0;
        loop {
            let started = Instant::now();
            let all_closed = timeout(QUIET, async { while self.tasks.join_next().await.is_some() {} }).await;
            let (produced, held_back) = hub.progress();
            if all_closed.is_ok() {
                return;
            }
            if !held_back {
                left = left.saturating_sub(started.elapsed());
                if produced == seen || left.is_zero() {
                    self.tasks.detach_all();
                    return;
                }
            }
            seen = produced;
        }
    }
}

/// Reads what is in the pipe: nothing at its end, `None` when it was a false alarm. The buffer lives for just
/// this moment, so that idle processes hold none.
fn read_now(pipe: &pipe::Receiver) -> Option<Result<Bytes, ()>> {
    let mut buffer = BytesMut::with_capacity(PIPE_CHUNK);
    match pipe.try_read_buf(&mut buffer) {
        // Small pieces are kept for long, so they must not hold on to a large buffer.
        Ok(length) if length < PIPE_CHUNK / 4 => Some(Ok(Bytes::copy_from_slice(&buffer))),
        Ok(_) => Some(Ok(buffer.freeze())),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) =>
        {
            None
        }
        Err(_) => Some(Err(())),
    }
}
