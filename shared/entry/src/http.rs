//! Around every HTTP handler, in Lambda and in one process alike: the root span, one log line, errors as problem
//! documents, the request's id and the headers for browsers.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Instant;

use futures::{FutureExt, StreamExt};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use http::{Method, Response};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt, service_fn};
use pvm_application::error::{AppError, AppResult, ErrorCode};
use tracing::Instrument;

use crate::cors::Cors;
use crate::problem;
use crate::reply::{Reply, ReplyBody};

/// Names a request in answers and logs.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a call before its handler runs.
#[derive(Debug, Clone)]
pub struct Call {
    /// The route's name, such as `create-project`.
    pub name: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Path without the stage.
    pub path: String,
    /// Names the request in the logs.
    pub request_id: String,
    /// The web page that calls, where one does.
    pub origin: Option<HeaderValue>,
}

impl Call {
    /// The facts of `request`, which goes to the route `name`.
    pub fn of(name: &'static str, request: &Request) -> Self {
        let request_id = match request.request_context_ref() {
            Some(RequestContext::ApiGatewayV1(context)) => context.request_id.clone(),
            _ => None,
        };
        Self {
            name,
            method: request.method().clone(),
            path: request.raw_http_path().to_owned(),
            request_id: request_id.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())),
            origin: request.headers().get(ORIGIN).cloned(),
        }
    }

    /// Runs a handler and makes an answer of whatever comes out of it, a panic included.
    pub async fn answer(self, cors: &Cors, handler: impl Future<Output = AppResult<Reply>>) -> Reply {
        let span =
            tracing::info_span!("request", "function.name" = self.name, "request.id" = %self.request_id);
        let started = Instant::now();
        let outcome = AssertUnwindSafe(handler.instrument(span.clone())).catch_unwind().await;
        let _in_span = span.enter();
        let result = outcome.unwrap_or_else(|panic| Err(panicked(&*panic)));
        let mut reply = match &result {
            Ok(_) => None,
            Err(error) => Some(self.failed(error)),
        }
        .or_else(|| result.ok())
        .unwrap_or_else(|| Response::new(ReplyBody::Bytes(bytes::Bytes::new())));
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            reply.headers_mut().insert(REQUEST_ID.clone(), id);
        }
        cors.mark(self.origin.as_ref(), reply.headers_mut());
        tracing::info!(
            method = %self.method,
            path = self.path,
            status = reply.status().as_u16(),
            duration_ms = started.elapsed().as_secs_f64() * 1000.0,
            "answered"
        );
        reply
    }

    fn failed(&self, error: &AppError) -> Reply {
        let cause = error.source.as_ref().map(|source| format!("{source:#}"));
        if error.code.status() >= 500 {
            tracing::error!(code = error.code.as_str(), cause, "{}", error.detail);
        } else {
            tracing::debug!(code = error.code.as_str(), cause, "{}", error.detail);
        }
        problem::reply(error, &self.path, &self.request_id)
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> AppError {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    AppError::new(ErrorCode::Internal, "The request failed on our side.")
        .because(anyhow::anyhow!("panic: {text}"))
}

/// A handler at work.
type Work<'a> = Pin<Box<dyn Future<Output = AppResult<Reply>> + Send + 'a>>;

/// Serves a route whose answers are sent whole, as a Lambda function.
///
/// # Errors
/// The runtime's.
pub async fn run_http<F, Fut>(name: &'static str, cors: Cors, handler: F) -> Result<(), lambda_http::Error>
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = AppResult<Reply>> + Send,
{
    let cors = &cors;
    lambda_http::run(service_fn(move |request: Request| {
        let call = Call::of(name, &request);
        // Boxed: a handler's state can be deep, deeper than the compiler lays out inside everything around it.
        let work: Work<'_> = Box::pin(handler(request));
        async move { Ok::<_, Infallible>(whole(call.answer(cors, work).await).await) }
    }))
    .await
}

/// Serves a route whose answers are sent as they come, as a Lambda function with response streaming.
///
/// # Errors
/// The runtime's.
pub async fn run_http_streaming<F, Fut>(
    name: &'static str,
    cors: Cors,
    handler: F,
) -> Result<(), lambda_http::Error>
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = AppResult<Reply>> + Send,
{
    let cors = &cors;
    lambda_http::run_with_streaming_response(service_fn(move |request: Request| {
        let call = Call::of(name, &request);
        // Boxed: a handler's state can be deep, deeper than the compiler lays out inside everything around it.
        let work: Work<'_> = Box::pin(handler(request));
        async move { Ok::<_, Infallible>(call.answer(cors, work).await) }
    }))
    .await
}

/// An answer as API Gateway takes it whole: text as text, anything else in base64.
async fn whole(reply: Reply) -> Response<Body> {
    let (parts, body) = reply.into_parts();
    let bytes = match body {
        ReplyBody::Bytes(bytes) => bytes.to_vec(),
        ReplyBody::Stream(mut pieces) => {
            let mut all = Vec::new();
            while let Some(Ok(piece)) = pieces.next().await {
                all.extend_from_slice(&piece);
            }
            all
        }
    };
    let media_type =
        parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_text = media_type.starts_with("text/") || media_type.ends_with("json");
    let body = match bytes {
        bytes if bytes.is_empty() => Body::Empty,
        bytes if is_text => {
            String::from_utf8(bytes).map_or_else(|bad| Body::Binary(bad.into_bytes()), Body::Text)
        }
        bytes => Body::Binary(bytes),
    };
    Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply;

    fn call() -> Call {
        Call::of("get-project", &Request::default().with_raw_http_path("/api/projects/x"))
    }

    #[tokio::test]
    async fn an_answer_carries_the_requests_id() {
        let reply = call().answer(&Cors::default(), async { Ok(reply::no_content()) }).await;
        assert_eq!(reply.status(), 204);
        assert_eq!(reply.headers()[&REQUEST_ID].len(), 32);
    }

    #[tokio::test]
    async fn a_panic_becomes_a_problem() {
        let reply = call().answer(&Cors::default(), async { panic!("boom") }).await;
        assert_eq!(reply.status(), 500);
        let whole = whole(reply).await;
        let Body::Text(text) = whole.body() else { panic!("a problem is text") };
        assert!(text.contains("\"instance\":\"/api/projects/x\"") && !text.contains("boom"), "{text}");
    }

    #[tokio::test]
    async fn text_stays_text_and_bytes_are_bytes() {
        let text = reply::ok(&serde_json::json!({"a": 1}));
        assert_eq!(whole(text).await.into_body(), Body::Text("{\"a\":1}".to_owned()));
        let binary = reply::bytes(http::StatusCode::OK, "application/octet-stream", vec![0u8, 255]);
        assert_eq!(whole(binary).await.into_body(), Body::Binary(vec![0, 255]));
    }
}
