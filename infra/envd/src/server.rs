//! Listening: HTTP/1.1 on unix and TCP sockets.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Duration, sleep};

use crate::daemon::Daemon;
use crate::http::RequestBody;
use crate::log;
use crate::router::{self, Origin};

/// How long a client of a daemon that runs alone may take to send the head of a request. Behind the sandbox
/// server nobody is waited for: it has read the head before it passes the request on.
const HEAD_LIMIT: Duration = Duration::from_mins(1);
/// How long to wait when no more connections can be taken; some end meanwhile.
const RECOVERY: Duration = Duration::from_millis(100);

/// Serves a unix socket for ever.
pub async fn serve_unix(daemon: Arc<Daemon>, listener: UnixListener, origin: Origin) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(Arc::clone(&daemon), stream, origin, None))),
            Err(error) => after_accept_error("unix", &error).await,
        }
    }
}

/// Serves a TCP port for ever.
pub async fn serve_tcp(daemon: Arc<Daemon>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for acknowledgements.
                stream.set_nodelay(true).ok();
                tokio::spawn(connection(Arc::clone(&daemon), stream, Origin::Alone, Some(HEAD_LIMIT)));
            }
            Err(error) => after_accept_error("tcp", &error).await,
        }
    }
}

/// Failing to accept is nearly always want of descriptors, which passes; spinning would make it worse.
pub(crate) async fn after_accept_error(listener: &str, error: &io::Error) {
    log::warn("accepting a connection failed", json!({"listener": listener, "error": error.to_string()}));
    sleep(RECOVERY).await;
}

async fn connection<S>(daemon: Arc<Daemon>, stream: S, origin: Origin, head_limit: Option<Duration>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let daemon = Arc::clone(&daemon);
        async move { Ok::<_, Infallible>(router::answer(daemon, origin, request.map(RequestBody::from)).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_limit);
    // Broken connections are the client's affair.
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await.ok();
}
