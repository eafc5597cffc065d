//! Kept connections: opening one costs more than a whole request on a warm one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::EnvdError;
use crate::body::{Body, BodyError};

/// Idle connections kept per sandbox and socket. More than this many requests at once still work; the surplus
/// connections are closed when they are done.
const MAX_IDLE: usize = 16;

/// A socket in a folder, addressed through a descriptor of the folder: the path of a socket may have 108 bytes
/// only, and state folders have any length.
#[derive(Debug, Clone)]
pub(super) struct SocketAddress {
    pub(super) folder: Arc<std::fs::File>,
    pub(super) name: &'static str,
}

impl SocketAddress {
    pub(super) fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}/{}", self.folder.as_raw_fd(), self.name)
    }
}

/// Connections to one socket.
#[derive(Debug)]
pub(super) struct Pool {
    address: SocketAddress,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
    /// Cancelled when the sandbox ends or stands still: every answer under way then breaks off.
    ended: CancellationToken,
}

impl Pool {
    pub(super) fn new(address: SocketAddress, ended: CancellationToken) -> Self {
        Self { address, idle: Arc::default(), ended }
    }

    fn take(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        let ready = idle.iter().rposition(SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    /// Opens a connection; its task ends with the connection or the sandbox.
    pub(super) async fn open(&self) -> Result<SendRequest<Body>, EnvdError> {
        let stream = UnixStream::connect(self.address.path()).await.map_err(EnvdError::Connect)?;
        let (sender, connection) = http1::Builder::new().handshake::<_, Body>(TokioIo::new(stream)).await?;
        let ended = self.ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                // An error here also reaches whoever waits for the answer.
                _ = connection.with_upgrades() => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// Sends a request on a kept connection, or a new one. A kept connection that turns out to be dead before
    /// anything was sent is replaced.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, EnvdError> {
        let mut request = request;
        while let Some(mut sender) = self.take() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.keep_after(sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut sender = self.open().await?;
        let response = sender.send_request(request).await?;
        Ok(self.keep_after(sender, response))
    }

    /// The connection goes back to the idle ones when the answer's body has been read to its end.
    fn keep_after(&self, sender: SendRequest<Body>, response: Response<Incoming>) -> Response<Body> {
        // An error may have been answered before the request was read, and the connection be closed for that.
        let reusable = response.status().is_success() || response.status().is_redirection();
        response.map(|body| {
            let kept = Kept {
                body,
                sender: Some(sender).filter(|_| reusable),
                idle: Arc::clone(&self.idle),
                ended: Box::pin(self.ended.clone().cancelled_owned()),
                finished: false,
            };
            kept.boxed_unsync()
        })
    }
}

/// An answer's body with its connection.
struct Kept {
    body: Incoming,
    sender: Option<SendRequest<Body>>,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    finished: bool,
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(None) => {
                this.finished = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map_err(Into::into))),
            Poll::Pending => match std::future::Future::poll(this.ended.as_mut(), context) {
                Poll::Ready(()) => Poll::Ready(Some(Err("the sandbox has ended".into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // A body known to be empty is never polled.
        if !(self.finished || self.body.is_end_stream()) {
            return;
        }
        let Some(sender) = self.sender.take() else { return };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }
}
