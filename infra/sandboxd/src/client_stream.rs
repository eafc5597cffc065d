//! A client's connection, which the HTTP server reads and writes, and from which the body of a large request can be taken
//! past it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Silence after which the kernel asks a client whether it is still there, how often it asks again, and after how many
/// questions without an answer it gives the client up: after a minute in all. A client that only has nothing more to say
/// (it closed its half) answers, one that closed the connection or whose machine is gone does not.
const ASK_AFTER: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_TIMES: u32 = 3;
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
        if let Err(error) = watch_over(&stream) {
            tracing::debug!(%error, "a client that vanishes may not be noticed");
        }
        Self(Arc::new(Shared { stream, held: AtomicBool::new(false), dry: Notify::new() }))
    }

    /// Returns when the connection is broken: the client reset it, or does not answer the kernel any more. Its end of
    /// sending alone is no break.
    pub(crate) async fn broken(&self) {
        // Fails when the runtime ends, and the connection with it.
        self.0.stream.ready(Interest::ERROR).await.ok();
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

fn watch_over(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, ASK_TIMES)
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, ClientStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, ClientStream::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn a_client_that_only_stops_sending_is_still_there() {
        let (mut client, mut stream) = pair().await;
        client.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert!(stream.broken().now_or_never().is_none());
        stream.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        assert!(stream.broken().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_reset_is_noticed_while_nothing_is_read() {
        let (client, stream) = pair().await;
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        stream.broken().await;
    }

    #[tokio::test]
    async fn the_kernel_watches_over_silent_clients() {
        let (_client, stream) = pair().await;
        let socket = &stream.0.stream;
        assert!(sockopt::socket_keepalive(socket).unwrap());
        let patience =
            sockopt::tcp_keepidle(socket).unwrap() + sockopt::tcp_keepintvl(socket).unwrap() * ASK_TIMES;
        assert_eq!((patience, sockopt::tcp_keepcnt(socket).unwrap()), (Duration::from_mins(1), ASK_TIMES));
    }
}
