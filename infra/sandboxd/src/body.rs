//! The one body type of everything that the server answers or passes on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
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

/// Bytes, and what comes after them.
pub(crate) fn prefixed(start: Bytes, rest: hyper::body::Incoming) -> Body {
    Prefixed { start: Some(start), rest }.boxed_unsync()
}

struct Prefixed {
    start: Option<Bytes>,
    rest: hyper::body::Incoming,
}

impl http_body::Body for Prefixed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(start) = this.start.take() {
            return Poll::Ready(Some(Ok(Frame::data(start))));
        }
        Pin::new(&mut this.rest).poll_frame(context).map_err(Into::into)
    }
}
