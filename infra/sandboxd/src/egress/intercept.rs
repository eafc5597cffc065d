//! TLS connections to hosts that have a header rule: ended here, so that the headers can be set on each request, and
//! continued to the host over a TLS connection of our own. The secret exists outside the sandbox only.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::serve::{prepare, refusal, refuse, set_headers};
use super::upstream::{Connected, Use};
use super::{Egress, policy};
use crate::body::{self, Body};
use crate::engine::Sandbox;

/// Carries one intercepted connection. `first` is the connection made when the tunnel was asked for; it serves the
/// first request, later ones get their own.
pub(super) async fn serve(
    egress: &Arc<Egress>,
    sandbox: &Arc<Sandbox>,
    host: &str,
    port: u16,
    inside: TokioIo<Upgraded>,
    first: Connected,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(egress.identity(sandbox, host)?);
    let inside = acceptor.accept(inside).await?;
    let ready = Mutex::new(Some(first));
    let service = service_fn(|request: Request<Incoming>| async {
        let connected = ready.lock().await.take();
        Ok::<_, Infallible>(answer(egress, sandbox, host, port, connected, request).await)
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(inside), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}

async fn answer(
    egress: &Arc<Egress>,
    sandbox: &Arc<Sandbox>,
    host: &str,
    port: u16,
    connected: Option<Connected>,
    request: Request<Incoming>,
) -> Response<Body> {
    // Behind one address stand many names; the secret is for this one.
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or(host);
    let named = named.rsplit_once(':').map_or(named, |(name, _)| name);
    if policy::normal_name(named) != host {
        return refuse(StatusCode::MISDIRECTED_REQUEST, "the Host header differs from the host connected to");
    }
    let connected = match connected {
        Some(connected) => connected,
        None => match egress.connect(&sandbox.gate, host, port, Use::Tunnel).await {
            Ok(connected) => connected,
            Err(denied) => return refusal(&denied),
        },
    };
    let outside = match secure(egress, host, connected.stream).await {
        Ok(outside) => outside,
        Err(error) => return refuse(StatusCode::BAD_GATEWAY, &format!("{host}: {error}")),
    };
    let (mut parts, incoming) = request.into_parts();
    prepare(&mut parts.headers);
    if let Some(rule) = sandbox.gate.policy().headers(host) {
        set_headers(&mut parts.headers, rule);
    }
    let request = Request::from_parts(parts, body::incoming(incoming));
    super::serve::exchange(TokioIo::new(outside), request, connected.passage).await
}

async fn secure(
    egress: &Egress,
    host: &str,
    stream: TcpStream,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(&egress.tls)).connect(name, stream).await
}
