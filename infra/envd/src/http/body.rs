//! The body of a request, which is read to its end even where nobody wants the rest.
//!
//! An answer that comes before the whole request was read (a message that is too large, a path that does not exist)
//! would otherwise be lost: closing a connection with unread bytes resets it, and whoever is still sending, such as the
//! sandbox server in between, sees the reset instead of the answer. So the rest is read and thrown away, within bounds.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Duration, timeout};

/// Most bytes that are thrown away after an early answer; a client that sends more is cut off.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Longest time for it.
const MOST_TIME: Duration = Duration::from_secs(5);

/// A request's body. Dropped before its end, it goes on being read in the background.
#[derive(Debug)]
pub struct RequestBody(Option<Incoming>);

impl From<Incoming> for RequestBody {
    fn from(incoming: Incoming) -> Self {
        Self(Some(incoming))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(incoming) => Pin::new(incoming).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(rest) = self.0.take().filter(|incoming| !incoming.is_end_stream()) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(MOST_TIME, throw_away(rest)));
        }
    }
}

async fn throw_away(mut rest: Incoming) {
    let mut seen = 0;
    while let Some(Ok(frame)) = rest.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > MOST_BYTES {
            return;
        }
    }
}
