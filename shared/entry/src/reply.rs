//! Answers: one body type, bytes or stream, and the ways to make one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use pvm_contracts::list::List;
use serde::Serialize;

/// What went wrong while a stream was being sent.
pub type StreamError = Box<dyn std::error::Error + Send + Sync>;

/// An answer.
pub type Reply = Response<ReplyBody>;

type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, StreamError>> + Send>>;

/// An answer's body.
pub enum ReplyBody {
    /// All of it.
    Bytes(Bytes),
    /// Pieces as they come.
    Stream(BodyStream),
}

impl std::fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_) => f.write_str("stream"),
        }
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match &mut *self {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => {
                stream.poll_next_unpin(context).map(|piece| piece.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer with a media type and all its bytes.
pub fn bytes(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(ReplyBody::Bytes(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    match serde_json::to_vec(body) {
        Ok(text) => bytes(status, "application/json", text),
        Err(error) => {
            // Contracts are plain structs with text keys: this is a bug of ours, told as one.
            tracing::error!(%error, "an answer has no JSON form");
            bytes(StatusCode::INTERNAL_SERVER_ERROR, "application/json", "{}")
        }
    }
}

/// 200 with JSON.
pub fn ok(body: &impl Serialize) -> Reply {
    json(StatusCode::OK, body)
}

/// 201 with JSON and where the new thing is.
pub fn created(body: &impl Serialize, location: &str) -> Reply {
    with_header(json(StatusCode::CREATED, body), LOCATION, location)
}

/// 202 with JSON: it goes on.
pub fn accepted(body: &impl Serialize) -> Reply {
    json(StatusCode::ACCEPTED, body)
}

/// 204.
pub fn no_content() -> Reply {
    let mut reply = Response::new(ReplyBody::Bytes(Bytes::new()));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// One page of a list.
pub fn list<T: Serialize>(items: Vec<T>, next_cursor: Option<String>) -> Reply {
    ok(&List { items, next_cursor })
}

/// 200 with pieces as they come, never cached or held back by a proxy.
pub fn stream<S>(media_type: &'static str, pieces: S) -> Reply
where
    S: Stream<Item = Result<Bytes, StreamError>> + Send + 'static,
{
    let mut reply = Response::new(ReplyBody::Stream(Box::pin(pieces)));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    reply
}

/// The same answer with a header; a value that no header can carry is left out.
#[must_use]
pub fn with_header(mut reply: Reply, name: HeaderName, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// The same answer with a resource's version as its `ETag`.
#[must_use]
pub fn with_version(reply: Reply, version: u64) -> Reply {
    with_header(reply, ETAG, &format!("\"{version}\""))
}
