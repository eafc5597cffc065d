//! The control plane: E2B's REST API.

mod builds;
mod create;
mod lifecycle;
mod list;
mod logs;
mod query;
mod reply;
mod snapshots;
mod templates;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use pvm_e2b_wire::HEADER_API_KEY;
use reply::{Failure, Reply};

use crate::body::{self, Body};
use crate::engine::{Engine, EngineError};

/// A request of a known caller.
struct Call {
    engine: Arc<Engine>,
    /// Whom the key belongs to.
    owner: String,
    request: Request<Incoming>,
}

/// Answers a control-plane request.
pub(crate) async fn serve(engine: &Arc<Engine>, request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::OPTIONS {
        return reply::preflight();
    }
    let mut response = match answer(engine, request).await {
        Ok(reply) => reply,
        Err(failure) => failure.into_response(),
    };
    reply::open_to_pages(response.headers_mut());
    response
}

/// The answer to a request that the end of the server has overtaken.
pub(crate) fn stopping() -> Response<Body> {
    Failure::from(EngineError::Capacity("the server is stopping".into())).into_response()
}

async fn answer(engine: &Arc<Engine>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    if path == "/health" && matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    // A build's file upload carries its permission in its URL: the client that sends it is a plain HTTP one.
    if let Some(upload) = path.strip_prefix("/template-files/") {
        return builds::receive_file(engine, upload, request).await;
    }
    let owner = authenticate(engine, &request).await?;
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = request.method().clone();
    let call = Call { engine: Arc::clone(engine), owner, request };
    route(&method, &segments, call).await
}

/// The table of routes.
async fn route(method: &Method, segments: &[&str], call: Call) -> Reply {
    match (method.as_str(), segments) {
        ("POST", ["sandboxes"]) => create::v1(call).await,
        ("POST", ["v2", "sandboxes"]) => create::v2(call).await,
        ("GET", ["sandboxes"]) => list::v1(&call),
        ("GET", ["v2", "sandboxes"]) => list::v2(&call),
        ("GET", ["sandboxes", "metrics"]) => logs::metrics_of_many(&call).await,
        ("GET", ["sandboxes", id]) => list::detail(&call, id),
        ("DELETE", ["sandboxes", id]) => lifecycle::kill(&call, id).await,
        ("POST", ["sandboxes", id, "connect"]) => lifecycle::connect_v1(call, id).await,
        ("POST", ["v2", "sandboxes", id, "connect"]) => lifecycle::connect_v2(call, id).await,
        ("POST", ["sandboxes", id, "resume"]) => lifecycle::resume(call, id).await,
        ("POST", ["sandboxes", id, "pause"]) => lifecycle::pause(call, id).await,
        ("POST", ["sandboxes", id, "timeout"]) => lifecycle::set_timeout(call, id).await,
        ("POST", ["sandboxes", id, "refreshes"]) => lifecycle::refresh(call, id).await,
        ("POST", ["sandboxes", id, "ports", port, "revoke-links"]) => {
            lifecycle::revoke_links(&call, id, port).await
        }
        ("PATCH" | "PUT", ["sandboxes", id, "metadata"]) => lifecycle::update_metadata(call, id).await,
        ("PUT", ["sandboxes", id, "network"]) => lifecycle::update_network(call, id).await,
        ("POST", ["sandboxes", id, "snapshots"]) => snapshots::create(call, id).await,
        ("POST", ["sandboxes", id, "fork"]) => snapshots::fork(call, id).await,
        ("GET", ["snapshots"]) => snapshots::list(&call),
        ("GET", ["sandboxes", id, "metrics"]) => logs::metrics(&call, id).await,
        ("GET", ["sandboxes", id, "logs"]) => logs::v1(&call, id).await,
        ("GET", ["v2", "sandboxes", id, "logs"]) => logs::v2(&call, id).await,
        ("GET", ["templates"]) => templates::list(&call),
        ("GET", ["v2", "templates"]) => templates::list_v2(&call),
        // Templates of the platform, for its dashboard.
        ("GET", ["default-templates"]) => Ok(reply::json(StatusCode::OK, &[(); 0])),
        ("GET", ["templates", "aliases", alias]) => templates::alias(&call, alias),
        ("POST", ["v3" | "v2", "templates"]) => builds::request(call).await,
        ("POST", ["templates", "tags"]) => templates::assign_tags(call).await,
        ("DELETE", ["templates", "tags"]) => templates::delete_tags(call).await,
        ("GET", ["templates", id, "tags"]) => templates::tags(&call, id),
        ("GET", ["templates", id]) => templates::detail(&call, id),
        ("DELETE", ["templates", id]) => templates::delete(&call, id),
        ("PATCH", ["templates", id] | ["v2", "templates", id]) => templates::update(call, id).await,
        ("GET", ["templates", id, "files", hash]) => builds::file(&call, id, hash),
        ("POST", ["v2", "templates", id, "builds", build]) => builds::start(call, id, build).await,
        ("GET", ["templates", id, "builds", build, "status"]) => builds::status(&call, id, build),
        ("GET", ["templates", id, "builds", build, "logs"]) => builds::logs(&call, id, build),
        (_, ["volumes" | "volumecontent" | "secrets", ..]) => Err(Failure::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{} are a cloud feature that this server does not have", segments[0]),
        )),
        _ => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("{method} /{} is not part of this server's API", segments.join("/")),
        )),
    }
}

/// The owner of the request's key, from `X-API-Key` or, as some tools send it, a bearer token.
async fn authenticate(engine: &Engine, request: &Request<Incoming>) -> Result<String, Failure> {
    let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
    let bearer = || {
        let value = text(request.headers().get(header::AUTHORIZATION)?)?;
        value.strip_prefix("Bearer ").map(str::to_owned)
    };
    let key = request.headers().get(HEADER_API_KEY).and_then(text).or_else(bearer);
    let unauthorized = |message: &str| Failure::new(StatusCode::UNAUTHORIZED, message);
    let Some(key) = key else {
        return Err(unauthorized("API key is missing: send it in the X-API-Key header"));
    };
    engine.config.authenticate.authenticate(&key).await.ok_or_else(|| unauthorized("API key is not valid"))
}
