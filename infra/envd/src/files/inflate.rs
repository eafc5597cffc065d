//! Undoing gzip on a stream, a bounded piece at a time, however much it inflates.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::{Stream, StreamExt as _};

/// Most bytes given to the decoder at once. Deflate inflates at most about thousandfold, so one step makes at
/// most about 4 MiB.
const STEP: usize = 4 * 1024;

/// The decompressed bytes of `body`.
pub fn inflate<S>(body: S) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    async_stream::stream! {
        let mut body = body;
        let mut decoder = MultiGzDecoder::new(Vec::new());
        while let Some(piece) = body.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            for step in piece.chunks(STEP) {
                if let Err(error) = decoder.write_all(step) {
                    yield Err(broken(&error));
                    return;
                }
                let output = std::mem::take(decoder.get_mut());
                if !output.is_empty() {
                    yield Ok(Bytes::from(output));
                }
            }
        }
        match decoder.finish() {
            Ok(output) if output.is_empty() => {}
            Ok(output) => yield Ok(Bytes::from(output)),
            Err(error) => yield Err(broken(&error)),
        }
    }
}

fn broken(error: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the request body is not gzip: {error}"))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures::stream;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    async fn collect(pieces: Vec<Vec<u8>>) -> io::Result<(Vec<u8>, usize)> {
        let body = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece))));
        let mut output = std::pin::pin!(inflate(body));
        let (mut all, mut largest) = (Vec::new(), 0);
        while let Some(piece) = output.next().await {
            let piece = piece?;
            largest = largest.max(piece.len());
            all.extend_from_slice(&piece);
        }
        Ok((all, largest))
    }

    #[tokio::test]
    async fn any_split_inflates_to_the_same() {
        let data = b"hello hello hello".repeat(100);
        let pieces = gzip(&data).chunks(3).map(<[u8]>::to_vec).collect();
        assert_eq!(collect(pieces).await.unwrap().0, data);
    }

    #[tokio::test]
    async fn a_bomb_comes_out_in_bounded_pieces() {
        let data = vec![0; 64 * 1024 * 1024];
        let (all, largest) = collect(vec![gzip(&data)]).await.unwrap();
        assert_eq!(all.len(), data.len());
        assert!(largest <= 5 * 1024 * 1024, "{largest}");
    }

    #[tokio::test]
    async fn what_is_not_gzip_is_refused() {
        assert!(collect(vec![b"plain text, not compressed".to_vec()]).await.is_err());
        let mut cut = gzip(b"hello");
        cut.truncate(8);
        assert!(collect(vec![cut]).await.is_err());
    }
}
