//! Passing requests on into a sandbox, and answers back, without holding either in memory.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::ENVD_PORT;
use pvm_e2b_wire::control::{ApiError, ProxyError};
use tokio_util::sync::CancellationToken;

use super::Target;
use super::access::{self, Access};
use super::refusal::{self, Reader, Refusal};
use super::upload::{self, Passed};
use super::{Client, tls};
use crate::body::{self, Body};
use crate::client_stream::ClientStream;
use crate::engine::{Engine, Runtime, Sandbox};
use crate::envd::{DialError, EnvdError};
use crate::store::{PauseKind, Phase, Record};

/// Least time a sandbox gets when traffic wakes it, in milliseconds: E2B's five minutes.
const WAKE_AT_LEAST_MS: u64 = 300_000;
/// Longest message that is held in memory before it is passed on.
const MAX_SHORT_CALL: usize = 256 * 1024;

/// Answers a data-plane request.
pub(crate) async fn serve(
    engine: &Arc<Engine>,
    target: Target,
    request: Request<Incoming>,
    client: &Client,
) -> Response<Body> {
    let reader = Reader::of(request.headers());
    let Some(sandbox) = engine.sandbox(&target.sandbox_id) else {
        return Refusal::NotFound.answer(&target, reader);
    };
    let now = engine.now_ms();
    let mut cookie = None;
    if target.port != ENVD_PORT
        && let Some(token) = sandbox.with(|record| record.traffic_token.clone())
    {
        let seconds = i64::try_from(now / 1000).unwrap_or(i64::MAX);
        let void = sandbox.with(|record| record.links_void_up_to_ms.get(&target.port).copied());
        let (uri, headers) = (request.uri(), request.headers());
        match access::check(&token, sandbox.id(), target.port, uri, headers, seconds, void) {
            Access::Granted => {}
            Access::GrantedByLink(value) => cookie = Some(value),
            Access::Missing => return Refusal::TokenMissing.answer(&target, reader),
            Access::Invalid => return Refusal::TokenInvalid.answer(&target, reader),
        }
    }
    let Some(runtime) = awake(engine, &sandbox).await else {
        return Refusal::NotFound.answer(&target, reader);
    };
    let mut response = if target.port == ENVD_PORT {
        to_envd(&sandbox, &runtime, request, &client.stream).await
    } else {
        sandbox.touch(now);
        to_port(&sandbox, &runtime, target.port, request, client.address).await
    };
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The sandbox's processes, woken if traffic may do that.
async fn awake(engine: &Arc<Engine>, sandbox: &Arc<Sandbox>) -> Option<Arc<Runtime>> {
    if let Some(runtime) = sandbox.running() {
        return Some(runtime);
    }
    let wakes = sandbox
        .with(|record| record.auto_resume && record.phase == Phase::Paused(PauseKind::Memory))
        .then(|| sandbox.with(|record| record.timeout_ms.max(WAKE_AT_LEAST_MS)))?;
    match engine.connect(sandbox, wakes, true).await {
        Ok(_) => sandbox.running(),
        Err(error) => {
            tracing::warn!(sandbox.id = sandbox.id(), %error, "traffic could not wake the sandbox");
            None
        }
    }
}

async fn to_envd(
    sandbox: &Arc<Sandbox>,
    runtime: &Arc<Runtime>,
    request: Request<Incoming>,
    client: &ClientStream,
) -> Response<Body> {
    let target = Target { sandbox_id: sandbox.id().to_owned(), port: ENVD_PORT };
    let reader = Reader::of(request.headers());
    if request.uri().path() == pvm_e2b_wire::raw_upload::PATH {
        // Between the two programs only: what is judged here is judged by the path.
        return api_error(StatusCode::NOT_FOUND, "there is nothing at this path");
    }
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let (mut parts, mut incoming) = request.into_parts();
    let large = upload::large_body(&parts).filter(|_| !upgrades);
    // Not `/filesystem.Filesystem`: removing files is what is asked for.
    let writes = parts.method == Method::POST && matches!(parts.uri.path(), "/files" | "/files/compose");
    if writes && sandbox.quota.is_over() {
        let message = "the sandbox's disk limit is reached: remove files first";
        let refusal = api_error(StatusCode::INSUFFICIENT_STORAGE, message);
        return match large {
            Some(length) => upload::refuse(refusal, incoming, length, client).await,
            None => refusal,
        };
    }
    let client_upgrade = parts.extensions.remove::<OnUpgrade>();
    prepare(&mut parts.headers, upgrades);
    parts.uri = origin_form(&parts.uri);
    if !parts.headers.contains_key(header::HOST) {
        parts.headers.insert(header::HOST, HeaderValue::from_static("envd"));
    }
    if let Some(length) = large {
        match upload::pass_on(runtime, Request::from_parts(parts, incoming), length, client).await {
            Ok(Passed::Answered(response)) => return response,
            Ok(Passed::NotKnown(request)) => (parts, incoming) = request.into_parts(),
            Err(error) => {
                tracing::debug!(sandbox.id = sandbox.id(), %error, "an upload had no answer");
                return Refusal::NotFound.answer(&target, reader);
            }
        }
    }
    let body = if is_short_call(&parts.headers, parts.uri.path()) {
        match whole(incoming).await {
            Ok(body) => body,
            Err(error) => return api_error(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    } else {
        body::incoming(incoming)
    };
    let request = Request::from_parts(parts, body);
    let result = if upgrades {
        runtime
            .envd
            .forward_upgrade(request)
            .await
            .map(|response| finish(response, client_upgrade, &runtime.streams, None))
    } else {
        runtime.envd.forward(request).await.map(|mut response| {
            strip_connection(response.headers_mut(), false);
            response
        })
    };
    result.unwrap_or_else(|error| {
        tracing::debug!(sandbox.id = sandbox.id(), %error, "envd did not answer");
        let refusal = if error.is_before_sending() { Refusal::NotFound } else { Refusal::Broken };
        refusal.answer(&target, reader)
    })
}

/// Calls whose request is one message. They are sent on in one piece: an envd that has read its message would
/// otherwise take the rest, an empty last chunk, for a reason to give the connection up.
fn is_short_call(headers: &HeaderMap, path: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    (kind.starts_with("application/json") || kind.starts_with("application/connect"))
        && !path.ends_with("/StreamInput")
}

/// Reads a body that is expected to be short; one that is not is passed on as it comes.
async fn whole(mut incoming: Incoming) -> Result<Body, hyper::Error> {
    let mut read = bytes::BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > MAX_SHORT_CALL {
            return Ok(body::prefixed(read.freeze(), incoming));
        }
    }
    Ok(body::full(read.freeze()))
}

async fn to_port(
    sandbox: &Arc<Sandbox>,
    runtime: &Arc<Runtime>,
    port: u16,
    request: Request<Incoming>,
    client: SocketAddr,
) -> Response<Body> {
    let target = Target { sandbox_id: sandbox.id().to_owned(), port };
    let reader = Reader::of(request.headers());
    let stream = match runtime.envd.dial(port).await {
        Ok(stream) => stream,
        Err(DialError::Refused) => return Refusal::PortClosed.answer(&target, reader),
        Err(DialError::Envd(error)) => {
            tracing::debug!(sandbox.id = sandbox.id(), %error, "envd did not connect");
            return Refusal::NotFound.answer(&target, reader);
        }
    };
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let (mut parts, incoming) = request.into_parts();
    let client_upgrade = parts.extensions.remove::<OnUpgrade>();
    tell_origin(&mut parts.headers, &parts.uri, client);
    access::remove_tokens(&mut parts.uri, &mut parts.headers);
    prepare(&mut parts.headers, upgrades);
    parts.uri = origin_form(&parts.uri);
    mask_host(sandbox, port, &mut parts.headers);
    let request = Request::from_parts(parts, body::incoming(incoming));
    let answer = if serves_tls(sandbox, port) {
        match tls::open(stream).await {
            Ok(secured) => exchange(TokioIo::new(secured), request, &runtime.streams).await,
            Err(error) => {
                tracing::debug!(sandbox.id = sandbox.id(), %error, "no TLS on a port that should have it");
                return Refusal::PortClosed.answer(&target, reader);
            }
        }
    } else {
        // The pipe wraps one of hyper's streams.
        exchange(stream.into_inner(), request, &runtime.streams).await
    };
    match answer {
        Ok(response) => finish(response, client_upgrade, &runtime.streams, Some(sandbox)),
        Err(error) => {
            let message = format!("The service in the sandbox closed the connection: {error}");
            refusal::json(&ProxyError { sandbox_id: target.sandbox_id, message, code: 502, port: Some(port) })
        }
    }
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

/// Turns an answer from inside into the one for the client; an accepted upgrade becomes a pipe, which is noted as use of
/// `used`.
fn finish(
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    ended: &CancellationToken,
    used: Option<&Arc<Sandbox>>,
) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let inside = hyper::upgrade::on(&mut response);
        let ended = ended.clone();
        let pipe = used.map(Sandbox::open_pipe);
        tokio::spawn(async move {
            let _pipe = pipe;
            let (Ok(client), Ok(inside)) = (client.await, inside.await) else { return };
            let (mut client, mut inside) = (TokioIo::new(client), TokioIo::new(inside));
            tokio::select! {
                // Either side may hang up; there is nobody to tell.
                _ = tokio::io::copy_bidirectional(&mut client, &mut inside) => {}
                () = ended.cancelled() => {}
            }
        });
        strip_connection(response.headers_mut(), true);
    } else {
        strip_connection(response.headers_mut(), false);
    }
    response.map(body::incoming)
}

fn prepare(headers: &mut HeaderMap, upgrades: bool) {
    let protocol = headers.get(header::UPGRADE).cloned();
    strip_connection(headers, false);
    if upgrades && let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Removes what belongs to one connection only.
fn strip_connection(headers: &mut HeaderMap, keep_upgrade: bool) {
    if keep_upgrade {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in
        ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"]
    {
        headers.remove(name);
    }
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

fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| path.clone().into())
}

/// An error as envd itself would tell it.
fn api_error(status: StatusCode, message: &str) -> Response<Body> {
    let error = ApiError::new(status.as_u16(), message);
    refusal::of(status, "application/json", serde_json::to_vec(&error).unwrap_or_default())
}
