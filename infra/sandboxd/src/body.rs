//! The one body type of everything that the server answers or passes on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tokio_util::io::ReaderStream;

/// Why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a file that are read at once.
const FILE_PIECE: usize = 256 * 1024;

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

/// The contents of a file, read as they are sent.
pub(crate) fn file(file: tokio::fs::File) -> Body {
    let pieces = ReaderStream::with_capacity(file, FILE_PIECE);
    StreamBody::new(pieces.map_ok(Frame::data).map_err(Into::into)).boxed_unsync()
}

/// Reads a whole body of at most so many bytes; nothing when it is longer or breaks off.
pub(crate) async fn read_all(mut body: Body, most: usize) -> Option<Bytes> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if read.len() + data.len() > most {
            return None;
        }
        read.extend_from_slice(&data);
    }
    Some(read.freeze())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_in_pieces() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let contents: Vec<u8> = (0..3 * FILE_PIECE + 7).map(|index| (index % 251) as u8).collect();
        std::fs::write(file.path(), &contents).unwrap();
        let mut body = super::file(tokio::fs::File::open(file.path()).await.unwrap());
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= FILE_PIECE, "{} bytes at once", piece.len());
            read.extend_from_slice(&piece);
        }
        assert!(read == contents);
    }
}
