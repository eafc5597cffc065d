//! Requests for a sandbox's daemon.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pvm_e2b_wire::envd_http::EnvdMetrics;

use super::forward::{Passage, api_error};
use super::refusal::Refusal;
use super::upload::{self, Passed};
use crate::body::{self, Body};
use crate::engine::Engine;
use crate::envd::EnvdError;
use crate::hops;

/// Longest message that is held in memory before it is passed on.
const MAX_SHORT_CALL: usize = 256 * 1024;
/// Longest answer about use of resources.
const MAX_METRICS: usize = 64 * 1024;

/// Passes a request on and the answer back.
pub(super) async fn pass(
    engine: &Arc<Engine>,
    passage: &Passage,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut parts, incoming) = request.into_parts();
    if parts.uri.path() == pvm_e2b_wire::raw_upload::PATH {
        // Between the two programs only: what is judged here is judged by the path.
        return api_error(StatusCode::NOT_FOUND, "there is nothing at this path");
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let large = upload::large_body(&parts).filter(|_| !is_upgrade(&parts.headers));
    if writes(&parts) && passage.sandbox.quota.is_over() {
        return refuse_full(passage, incoming, large).await;
    }
    let wants_metrics = parts.method == Method::GET && parts.uri.path() == "/metrics";
    readdress(&mut parts);
    let request = Request::from_parts(parts, incoming);
    let answered = match large {
        Some(length) => pass_upload(passage, request, length).await,
        None => pass_call(passage, request, upgrade).await,
    };
    match answered {
        Ok(response) if wants_metrics => with_servers_figures(engine, passage, response).await,
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(sandbox.id = passage.sandbox.id(), %error, "envd did not answer");
            passage.refuse(if error.is_before_sending() { Refusal::NotFound } else { Refusal::Broken })
        }
    }
}

/// Makes the head of a request one to the daemon.
fn readdress(parts: &mut Parts) {
    hops::prepare(&mut parts.headers);
    parts.uri = hops::origin_form(&parts.uri);
    parts.headers.entry(header::HOST).or_insert(HeaderValue::from_static("envd"));
}

/// The answer to a write while the sandbox has more on disk than it may.
async fn refuse_full(passage: &Passage, incoming: Incoming, large: Option<u64>) -> Response<Body> {
    let message = "the sandbox's disk limit is reached: remove files first";
    let refusal = api_error(StatusCode::INSUFFICIENT_STORAGE, message);
    match large {
        Some(length) => upload::refuse(refusal, incoming, length, &passage.client.stream).await,
        None => refusal,
    }
}

/// Whether a request adds to the disk. Not `/filesystem.Filesystem`: removing files is what is asked for.
fn writes(parts: &Parts) -> bool {
    parts.method == Method::POST && matches!(parts.uri.path(), "/files" | "/files/compose")
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// A large upload goes past the HTTP server; an envd of an earlier version gets it as any other request.
async fn pass_upload(
    passage: &Passage,
    request: Request<Incoming>,
    length: u64,
) -> Result<Response<Body>, EnvdError> {
    match upload::pass_on(&passage.runtime, request, length, &passage.client.stream).await {
        Ok(Passed::Answered(response)) => Ok(response),
        Ok(Passed::NotKnown(request)) => pass_call(passage, request, None).await,
        Err(error) => {
            tracing::debug!(sandbox.id = passage.sandbox.id(), %error, "an upload had no answer");
            Ok(passage.refuse(Refusal::NotFound))
        }
    }
}

async fn pass_call(
    passage: &Passage,
    request: Request<Incoming>,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, EnvdError> {
    let (parts, incoming) = request.into_parts();
    let body = if is_short_call(&parts.headers, parts.uri.path()) {
        match whole(incoming).await {
            Ok(body) => body,
            Err(error) => return Ok(api_error(StatusCode::BAD_REQUEST, &error.to_string())),
        }
    } else {
        body::incoming(incoming)
    };
    let request = Request::from_parts(parts, body);
    if is_upgrade(request.headers()) {
        let response = passage.runtime.envd.forward_upgrade(request).await?;
        return Ok(passage.finish(response, upgrade));
    }
    let mut response = passage.runtime.envd.forward(request).await?;
    hops::strip(response.headers_mut());
    Ok(response)
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

/// Completes envd's own figures by those that only the server knows: what of the shared disk, and of the machine's
/// page cache, is this sandbox's.
async fn with_servers_figures(
    engine: &Arc<Engine>,
    passage: &Passage,
    response: Response<Body>,
) -> Response<Body> {
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Some(told) = body::read_all(body, MAX_METRICS).await else {
        return passage.refuse(Refusal::NotFound);
    };
    let Ok(mut metrics) = serde_json::from_slice::<EnvdMetrics>(&told) else {
        return Response::from_parts(parts, body::full(told));
    };
    let known = engine.usage_now(&passage.sandbox).await;
    metrics.disk_used = known.disk;
    metrics.mem_cache = known.cache;
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body::full(serde_json::to_vec(&metrics).unwrap_or_default()))
}
