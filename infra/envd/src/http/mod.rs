//! What every endpoint shares: bodies, plain answers, and the Connect calls on top.

mod body;
pub mod reply;
pub mod request;
pub mod rpc;

use std::io;

use bytes::Bytes;
use futures::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;

pub use body::RequestBody;

/// Body of an answer: nothing, bytes, or a stream made while it is sent.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request as it comes from a connection.
pub type Request = hyper::Request<RequestBody>;

/// An answer.
pub type Response = hyper::Response<Body>;

/// A body of nothing.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body made piece by piece; it is only asked for the next piece when the last one was taken.
pub fn stream(pieces: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}
