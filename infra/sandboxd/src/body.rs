//! The one body type of everything that the server answers or passes on.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};

/// Why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Nothing.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// These bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What came in.
pub(crate) fn incoming(body: hyper::body::Incoming) -> Body {
    body.map_err(Into::into).boxed_unsync()
}
