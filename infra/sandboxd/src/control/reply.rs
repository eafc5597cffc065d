//! Bodies in and out of the control plane.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use pvm_e2b_wire::control::ApiError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::{self, Body};
use crate::engine::EngineError;

/// Largest request body. The longest real one is a template build with its steps.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// What a handler answers.
pub(super) type Reply = Result<Response<Body>, Failure>;

/// An error answer.
#[derive(Debug)]
pub(super) struct Failure {
    error: ApiError,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u32>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { error: ApiError::new(status.as_u16(), message), retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self.error);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::NotFound(_) | EngineError::TemplateNotFound(_) => {
                Self::new(StatusCode::NOT_FOUND, message)
            }
            EngineError::Conflict(_) => Self::new(StatusCode::CONFLICT, message),
            EngineError::KeyReused(_) => {
                Self::new(StatusCode::CONFLICT, message).with_error_code("idempotency_request_mismatch")
            }
            EngineError::Invalid(_) => Self::bad_request(message),
            EngineError::Capacity(_) => Self {
                error: ApiError::new(503, message).with_error_code("sandbox_capacity_unavailable"),
                retry_after: Some(1),
            },
            EngineError::Failed { .. } => {
                tracing::error!(error = message, "a control-plane request failed");
                let error_code = "internal_server_error";
                Self { error: ApiError::new(500, message).with_error_code(error_code), retry_after: None }
            }
        }
    }
}

impl Failure {
    /// The same with another code for programs.
    pub(super) fn with_error_code(mut self, error_code: &str) -> Self {
        self.error.error_code = Some(error_code.to_owned());
        self
    }

    pub(super) fn is_server_fault(&self) -> bool {
        self.error.code == 500
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(body::full(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Reads a JSON body.
pub(super) async fn read<T: DeserializeOwned>(incoming: Incoming) -> Result<T, Failure> {
    let bytes = read_bytes(incoming).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::bad_request(format!("the body is not valid: {error}")))
}

/// Reads a JSON body that may be absent.
pub(super) async fn read_optional<T: DeserializeOwned + Default>(incoming: Incoming) -> Result<T, Failure> {
    let bytes = read_bytes(incoming).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) || bytes.as_ref() == b"null" {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::bad_request(format!("the body is not valid: {error}")))
}

async fn read_bytes(incoming: Incoming) -> Result<bytes::Bytes, Failure> {
    match Limited::new(incoming, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {MAX_BODY} bytes"),
        )),
        Err(_) => Err(Failure::bad_request("the body broke off")),
    }
}

/// Lets web pages call: their scripts hold the key, there are no cookies to abuse.
pub(super) fn open_to_pages(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-next-token, x-total-running, retry-after"),
    );
}

/// The answer to a browser's question before it calls.
pub(super) fn preflight() -> Response<Body> {
    let mut response = no_content();
    let headers = response.headers_mut();
    open_to_pages(headers);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, authorization"),
        (header::ACCESS_CONTROL_MAX_AGE, "7200"),
    ] as [(HeaderName, &'static str); 3]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn want_of_room_says_when_to_try_again() {
        let (parts, body) = Failure::from(EngineError::Capacity("full".into())).into_response().into_parts();
        assert_eq!((parts.status.as_u16(), &parts.headers["retry-after"]), (503, &HeaderValue::from(1)));
        let body = body.collect().await.unwrap().to_bytes();
        let error: ApiError = serde_json::from_slice(&body).unwrap();
        assert_eq!((error.code, error.error_code.as_deref()), (503, Some("sandbox_capacity_unavailable")));
    }
}
