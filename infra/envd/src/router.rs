//! Which request goes where, and who may make it.

use std::sync::Arc;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use pvm_e2b_wire::{HEADER_JOURNAL, filesystem, journal, process, raw_upload, workspace};

use crate::daemon::Daemon;
use crate::http::{Request, Response, reply};
use crate::{control, files};

/// Path prefix of what only the sandbox server may ask for.
const CONTROL: &str = "/pvm.Control/";

/// Endpoints by which E2B's own servers prepare a machine for a snapshot. There is nothing behind them here, and
/// nobody outside may ask for them anywhere.
const RESERVED: [&str; 5] = ["/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw"];

/// Where a request came in, which decides what it may ask for. Never read from the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From outside, passed on by the sandbox server.
    Data,
    /// From the sandbox server itself.
    Control,
    /// From anybody, to a daemon that runs alone.
    Alone,
}

/// Answers a request.
pub async fn answer(daemon: Arc<Daemon>, origin: Origin, request: Request) -> Response {
    if reply::is_preflight(&request) {
        return reply::preflight(request.headers());
    }
    let asked = request.headers().clone();
    let mut response = route(&daemon, origin, request).await;
    reply::allow_origin(&asked, &mut response);
    response
}

async fn route(daemon: &Arc<Daemon>, origin: Origin, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if let Some(method) = path.strip_prefix(CONTROL) {
        return match origin {
            Origin::Control => control::serve(daemon, method, request).await,
            Origin::Data | Origin::Alone => {
                reply::error_reply(StatusCode::FORBIDDEN, "this is reserved for the sandbox server")
            }
        };
    }
    if RESERVED.contains(&path.as_str()) && origin == Origin::Data {
        return reply::error_reply(StatusCode::FORBIDDEN, "this is reserved for the sandbox server");
    }
    let method = request.method().clone();
    let open = matches!(
        (&method, path.as_str()),
        (&Method::GET, "/health" | "/files") | (&Method::POST, "/files" | "/init" | raw_upload::PATH)
    );
    if !open && origin != Origin::Control && !daemon.has_token(request.headers()) {
        let message =
            "unauthorized access, please provide a valid access token or method signing if supported";
        return reply::error_reply(StatusCode::UNAUTHORIZED, message);
    }
    match (&method, path.as_str()) {
        (&Method::GET, "/health") => health(),
        (&Method::GET, "/metrics") => {
            reply::json(StatusCode::OK, &daemon.metrics.read(&daemon.settings, Timestamp::now()))
        }
        (&Method::GET, "/envs") => reply::json(StatusCode::OK, &daemon.variables()),
        (&Method::POST, "/init") => control::init(daemon, request, origin).await,
        (&Method::GET, "/files") => files::download::serve(daemon, &request).await,
        (&Method::POST, "/files") => files::upload::serve(daemon, request).await,
        (&Method::POST, raw_upload::PATH) => files::raw_upload::serve(daemon, request),
        (&Method::POST, "/files/compose") => files::compose::serve(daemon, request).await,
        (_, "/health" | "/metrics" | "/envs" | "/init" | "/files" | "/files/compose") => {
            reply::error_reply(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        }
        (_, path) => {
            if let Some(method) = path.strip_prefix(process::SERVICE) {
                crate::process::serve(daemon, method, request).await
            } else if let Some(method) = path.strip_prefix(filesystem::SERVICE) {
                crate::filesystem::serve(daemon, method, request).await
            } else if let Some(method) = path.strip_prefix(journal::SERVICE) {
                crate::journal::service::serve(daemon, method, request).await
            } else if let Some(method) = path.strip_prefix(workspace::SERVICE) {
                crate::workspace::serve(daemon, method, request).await
            } else {
                reply::error_reply(StatusCode::NOT_FOUND, "there is nothing at this path")
            }
        }
    }
}

fn health() -> Response {
    let mut response = reply::no_content();
    response.headers_mut().insert(HEADER_JOURNAL, HeaderValue::from_static("1"));
    response
}
