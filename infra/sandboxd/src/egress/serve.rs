//! The HTTP proxy itself: CONNECT tunnels, and requests in clear text.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pvm_e2b_wire::secret::Secret;
use tokio::net::UnixStream;

use super::upstream::{Connected, Refusal, Use};
use super::{Egress, intercept, policy};
use crate::body::{self, Body};
use crate::engine::Sandbox;
use crate::hops;

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves one connection from inside.
pub(super) async fn connection(egress: &Arc<Egress>, sandbox: &Arc<Sandbox>, stream: UnixStream) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(egress, sandbox, request).await) });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(sandbox.id = sandbox.id(), %error, "egress connection ended");
    }
}

async fn answer(egress: &Arc<Egress>, sandbox: &Arc<Sandbox>, request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return tunnel(egress, sandbox, request).await;
    }
    if request.uri().scheme_str() == Some("http") {
        return forward(egress, sandbox, request).await;
    }
    refuse(
        StatusCode::BAD_REQUEST,
        "this is the sandbox's egress proxy: send CONNECT or an absolute http:// URL",
    )
}

/// A short text that command line tools show.
pub(super) fn refuse(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(body::full(format!("pvm egress proxy: {text}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(super) fn refusal(refusal: &Refusal) -> Response<Body> {
    let status = match refusal {
        Refusal::Denied(_) => StatusCode::FORBIDDEN,
        Refusal::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Unreachable(_) => StatusCode::BAD_GATEWAY,
    };
    refuse(status, &refusal.to_string())
}

/// `CONNECT host:port`: a byte pipe, or interception where a rule sets headers.
async fn tunnel(egress: &Arc<Egress>, sandbox: &Arc<Sandbox>, request: Request<Incoming>) -> Response<Body> {
    let Some((host, port)) =
        request.uri().authority().and_then(|a| Some((a.host().to_owned(), a.port_u16()?)))
    else {
        return refuse(StatusCode::BAD_REQUEST, "CONNECT needs host:port");
    };
    let name = policy::normal_name(&host);
    let rules = sandbox.gate.policy();
    let connected = match egress.connect(&sandbox.gate, &host, port, Use::Tunnel).await {
        Ok(connected) => connected,
        Err(denied) => return refusal(&denied),
    };
    let intercepted = rules.is_tls_port(port) && rules.headers(&name).is_some();
    let (egress, sandbox) = (Arc::clone(egress), Arc::clone(sandbox));
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut inside = TokioIo::new(upgraded);
        let revoked = connected.passage.revoked.clone();
        let carried = async {
            if intercepted {
                return intercept::serve(&egress, &sandbox, &name, port, inside, connected).await;
            }
            let Connected { mut stream, passage, .. } = connected;
            let ended = tokio::io::copy_bidirectional(&mut inside, &mut stream).await;
            drop(passage);
            ended.map(|_| ())
        };
        tokio::select! {
            ended = carried => if let Err(error) = ended {
                tracing::debug!(%error, "a tunnel ended");
            },
            () = revoked.cancelled() => {}
        }
    });
    Response::new(body::empty())
}

/// A request in clear text.
async fn forward(egress: &Arc<Egress>, sandbox: &Arc<Sandbox>, request: Request<Incoming>) -> Response<Body> {
    let Some(host) = request.uri().host().map(str::to_owned) else {
        return refuse(StatusCode::BAD_REQUEST, "the URL names no host");
    };
    let port = request.uri().port_u16().unwrap_or(80);
    let connected = match egress.connect(&sandbox.gate, &host, port, Use::PlainHttp).await {
        Ok(connected) => connected,
        Err(denied) => return refusal(&denied),
    };
    let (mut parts, incoming) = request.into_parts();
    // Some programs send a Host of their own choosing; the URL is what was checked.
    if let Some(authority) = parts.uri.authority()
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, value);
    }
    prepare(&mut parts.headers);
    let name = policy::normal_name(&host);
    let rules = sandbox.gate.policy();
    // In clear text a secret is set only where it cannot be overheard.
    if connected.is_loopback
        && let Some(headers) = rules.headers(&name)
    {
        set_headers(&mut parts.headers, headers);
    }
    if connected.through_proxy {
        if let Some(value) =
            egress.proxy_authorization(&name).and_then(|text| HeaderValue::from_str(text).ok())
        {
            parts.headers.insert(header::PROXY_AUTHORIZATION, value);
        }
    } else {
        parts.uri = hops::origin_form(&parts.uri);
    }
    let Connected { stream, passage, .. } = connected;
    let request = Request::from_parts(parts, body::incoming(incoming));
    exchange(TokioIo::new(stream), request, passage).await
}

/// Sends one request on a fresh connection and passes the answer on; the connection lives as long as the answer.
pub(super) async fn exchange<S>(
    stream: S,
    mut request: Request<Body>,
    keep: super::gate::Passage,
) -> Response<Body>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let client_upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = match handshake {
        Ok(pair) => pair,
        Err(error) => return refuse(StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = connection.with_upgrades() => {}
            () = keep.revoked.cancelled() => {}
        }
    });
    match sender.send_request(request).await {
        Ok(mut response) => {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                && let Some(inside) = client_upgrade
            {
                tokio::spawn(hops::pipe(inside, &mut response));
            } else {
                hops::strip(response.headers_mut());
            }
            response.map(body::incoming)
        }
        Err(error) => refuse(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

/// Makes a request's headers those of the connection to the outside.
pub(super) fn prepare(headers: &mut HeaderMap) {
    hops::prepare(headers);
    // For this proxy alone.
    headers.remove(header::PROXY_AUTHORIZATION);
}

/// Sets or replaces headers; their names and values have been checked when the rule came in.
pub(super) fn set_headers(headers: &mut HeaderMap, rule: &[(String, Secret)]) {
    for (name, value) in rule {
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.expose()))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
}
