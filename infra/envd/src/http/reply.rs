//! Plain answers and CORS.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN, VARY,
};
use hyper::{HeaderMap, Method, StatusCode};
use pvm_e2b_wire::control::ApiError;
use serde::Serialize;

use super::{Body, Request, Response, empty, full};

/// How long a browser may remember a preflight, in seconds.
const PREFLIGHT_SECONDS: &str = "7200";
const METHODS: &str = "HEAD, GET, POST, PUT, PATCH, DELETE";
const EXPOSED: &str =
    "Location, Cache-Control, X-Content-Type-Options, Content-Range, Content-Disposition, X-Envd-Version";

/// An answer with this status and body.
pub fn with_body(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// 204.
pub fn no_content() -> Response {
    with_body(StatusCode::NO_CONTENT, empty())
}

/// JSON of a value.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let mut response = with_body(status, full(text));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => {
            error_reply(StatusCode::INTERNAL_SERVER_ERROR, &format!("encoding the answer: {error}"))
        }
    }
}

/// E2B's plain error: `{"code": 404, "message": "..."}`.
pub fn error_reply(status: StatusCode, message: &str) -> Response {
    json(status, &ApiError::new(status.as_u16(), message))
}

/// Whether the request asks what a browser may do, which is answered before anything else.
pub fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Everything is allowed from everywhere: access is decided by tokens, which no browser adds by itself.
pub fn preflight(headers: &HeaderMap) -> Response {
    let mut response = no_content();
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
    if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        // `*` would not cover Authorization.
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

/// Marks an answer as readable for the browser that asked.
pub fn allow_origin(asked: &HeaderMap, response: &mut Response) {
    if asked.contains_key(ORIGIN) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}
