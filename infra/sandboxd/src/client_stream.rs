//! A client's connection, which the HTTP server reads and writes, and from which the body of a large request can be taken
//! past it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Longest time for reading what nobody wants.
const THROW_AWAY: Duration = Duration::from_secs(5);

/// The connection. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct ClientStream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    /// Whether the HTTP server gets no more to read.
    held: AtomicBool,
    /// Told when the HTTP server wanted to read all the same: it has nothing left of what it had read.
    dry: Notify,
}

impl ClientStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Shared { stream, held: AtomicBool::new(false), dry: Notify::new() }))
    }

    /// Keeps the HTTP server from reading on, for good: what comes from now on is taken by [`Self::take`]. The answer to
    /// the request under way must end the connection.
    pub(crate) fn hold(&self) {
        self.0.held.store(true, Ordering::SeqCst);
    }

    /// Returns when the HTTP server has handed out all that it had read before [`Self::hold`].
    pub(crate) async fn dry(&self) {
        self.0.dry.notified().await;
    }

    /// Does something with the socket once it has bytes to read. `take` must say that it would block only when the socket
    /// has none.
    pub(crate) async fn take<T>(
        &self,
        mut take: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.stream.async_io(Interest::READABLE, || take(self.0.stream.as_fd())).await
    }

    /// Reads so many bytes for nothing: a client that is still sending would not look at an answer. One that takes its
    /// time is not waited for.
    pub(crate) async fn throw_away(&self, mut bytes: u64) {
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while bytes > 0 {
                let read = self.0.stream.async_io(Interest::READABLE, || self.0.stream.try_read(&mut buffer));
                match read.await {
                    Ok(read) if read > 0 => bytes = bytes.saturating_sub(read as u64),
                    _ => return,
                }
            }
        };
        tokio::time::timeout(THROW_AWAY, reading).await.ok();
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.0.held.load(Ordering::SeqCst) {
                self.0.dry.notify_one();
                return Poll::Pending;
            }
            ready!(self.0.stream.poll_read_ready(context))?;
            match self.0.stream.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl ClientStream {
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(context))?;
            match write(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream| stream.try_write(data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stream| stream.try_write_vectored(data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&self.0.stream, rustix::net::Shutdown::Write) {
            // The client was faster.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
