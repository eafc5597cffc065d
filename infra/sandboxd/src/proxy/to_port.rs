//! Requests for what listens on a port inside.

use std::net::SocketAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::control::ProxyError;
use tokio_util::sync::CancellationToken;

use super::forward::Passage;
use super::refusal::{self, Refusal};
use super::{access, tls};
use crate::body::{self, Body};
use crate::engine::Sandbox;
use crate::envd::{DialError, EnvdError};
use crate::hops;
use crate::store::Record;

/// Passes a request on and the answer back.
pub(super) async fn pass(passage: &Passage, request: Request<Incoming>) -> Response<Body> {
    let stream = match passage.runtime.envd.dial(passage.port).await {
        Ok(stream) => stream,
        Err(DialError::Refused) => return passage.refuse(Refusal::PortClosed),
        Err(DialError::Envd(error)) => {
            tracing::debug!(sandbox.id = passage.sandbox.id(), %error, "envd did not connect");
            return passage.refuse(Refusal::NotFound);
        }
    };
    let (mut parts, incoming) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    readdress(passage, &mut parts);
    match ask(passage, stream, Request::from_parts(parts, body::incoming(incoming))).await {
        Ok(response) => passage.finish(response, upgrade),
        Err(AskError::NoTls(error)) => {
            tracing::debug!(sandbox.id = passage.sandbox.id(), %error, "no TLS on a port that should have it");
            passage.refuse(Refusal::PortClosed)
        }
        Err(AskError::Closed(error)) => refusal::json(&ProxyError {
            sandbox_id: passage.sandbox.id().to_owned(),
            message: format!("The service in the sandbox closed the connection: {error}"),
            code: 502,
            port: Some(passage.port),
        }),
    }
}

/// Makes the head of a request one to the service inside.
fn readdress(passage: &Passage, parts: &mut Parts) {
    tell_origin(&mut parts.headers, &parts.uri, passage.client.address);
    access::remove_tokens(&mut parts.uri, &mut parts.headers);
    hops::prepare(&mut parts.headers);
    parts.uri = hops::origin_form(&parts.uri);
    mask_host(&passage.sandbox, passage.port, &mut parts.headers);
}

/// Why a service that was connected to did not answer.
enum AskError {
    /// It should speak TLS.
    NoTls(std::io::Error),
    /// It hung up.
    Closed(EnvdError),
}

async fn ask(
    passage: &Passage,
    stream: TokioIo<Upgraded>,
    request: Request<Body>,
) -> Result<Response<Incoming>, AskError> {
    let ended = &passage.runtime.streams;
    let answer = if serves_tls(&passage.sandbox, passage.port) {
        let secured = tls::open(stream).await.map_err(AskError::NoTls)?;
        exchange(TokioIo::new(secured), request, ended).await
    } else {
        // The pipe wraps one of hyper's streams.
        exchange(stream.into_inner(), request, ended).await
    };
    answer.map_err(AskError::Closed)
}

/// Whether a port was said to serve HTTPS.
fn serves_tls(sandbox: &Sandbox, port: u16) -> bool {
    let ports = |record: &Record| record.network.as_ref()?.egress.https_ports.clone();
    sandbox.with(|record| ports(record).is_some_and(|ports| ports.contains(&port)))
}

/// One request on a connection of its own, which ends with the answer or the sandbox.
async fn exchange<S>(
    stream: S,
    request: Request<Body>,
    ended: &CancellationToken,
) -> Result<Response<Incoming>, EnvdError>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(stream).await?;
    let ended = ended.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = connection.with_upgrades() => {}
            () = ended.cancelled() => {}
        }
    });
    Ok(sender.send_request(request).await?)
}

/// The usual headers by which a service learns how it was reached.
fn tell_origin(headers: &mut HeaderMap, uri: &Uri, client: SocketAddr) {
    let host = headers
        .get(header::HOST)
        .cloned()
        .or_else(|| uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()));
    if let Some(host) = host {
        headers.insert("x-forwarded-host", host);
    }
    headers.entry("x-forwarded-proto").or_insert(HeaderValue::from_static("http"));
    let address = client.ip().to_string();
    let chain = match headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()) {
        Some(before) => format!("{before}, {address}"),
        None => address,
    };
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert("x-forwarded-for", value);
    }
}

/// Shows the service the host name that the sandbox's configuration asks for.
fn mask_host(sandbox: &Sandbox, port: u16, headers: &mut HeaderMap) {
    let mask = sandbox.with(|record| record.network.as_ref()?.mask_request_host.clone());
    if let Some(mask) = mask
        && let Ok(value) = HeaderValue::from_str(&mask.replace("${PORT}", &port.to_string()))
    {
        headers.insert(header::HOST, value);
    } else if !headers.contains_key(header::HOST)
        && let Ok(value) = HeaderValue::from_str(&format!("localhost:{port}"))
    {
        headers.insert(header::HOST, value);
    }
}
