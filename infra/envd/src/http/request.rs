//! Reading requests: query parameters, headers, and bodies with bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::{HeaderMap, Uri};
use pvm_e2b_wire::list_query::parameters;

/// Bytes of request bodies that may be held in memory at one time, all requests together. A sandbox has little
/// memory and this process must be the last to run out of it.
const BUFFER_BUDGET: usize = 192 * 1024 * 1024;

/// Why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than this kind of request may be.
    #[error("the request body is larger than the limit of {0} bytes")]
    TooLarge(usize),
    /// Too many large requests at once.
    #[error("too many large requests at once; try again")]
    Busy,
    /// The connection broke, or the body was not HTTP.
    #[error("reading the request body failed: {0}")]
    Broken(String),
}

/// Counts the memory that request bodies take.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    used: Arc<AtomicUsize>,
}

/// A share of [`Buffers`], given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Buffers {
    /// An empty share.
    pub fn reserve(&self) -> Reserved {
        Reserved { used: Arc::clone(&self.used), bytes: 0 }
    }
}

impl Reserved {
    /// Takes more.
    ///
    /// # Errors
    /// [`BodyError::Busy`] when there is no more to take.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BodyError> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > BUFFER_BUDGET {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(BodyError::Busy);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives some back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a whole body of at most `limit` bytes. The returned share must live as long as the bytes.
///
/// # Errors
/// [`BodyError`].
pub async fn read_body(
    buffers: &Buffers,
    mut body: super::RequestBody,
    limit: usize,
) -> Result<(Bytes, Reserved), BodyError> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(BodyError::TooLarge(limit));
    }
    let mut reserved = buffers.reserve();
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        reserved.grow(data.len())?;
        // Nearly every request is one piece, which needs no copy.
        if first.is_none() && whole.is_empty() {
            first = Some(data);
            continue;
        }
        if let Some(first) = first.take() {
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&data);
    }
    Ok((first.unwrap_or_else(|| whole.freeze()), reserved))
}

/// The value of a query parameter; the last one wins. Present without a value is an empty text.
pub fn query(uri: &Uri, name: &str) -> Option<String> {
    parameters(uri.query().unwrap_or_default()).filter(|(key, _)| key == name).map(|(_, value)| value).last()
}

/// A header as text, if it is there and is text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The media type of a content type without its parameters, in lower case.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = header(headers, "content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_back_when_dropped() {
        let buffers = Buffers::default();
        let mut share = buffers.reserve();
        share.grow(BUFFER_BUDGET).unwrap();
        assert_eq!(buffers.reserve().grow(1), Err(BodyError::Busy));
        drop(share);
        assert_eq!(buffers.reserve().grow(BUFFER_BUDGET), Ok(()));
    }

    #[test]
    fn query_parameters_are_decoded() {
        let uri: Uri = "/files?path=a%20b%2Fc+d&username=&path2=x".parse().unwrap();
        assert_eq!(query(&uri, "path").as_deref(), Some("a b/c d"));
        assert_eq!(query(&uri, "username").as_deref(), Some(""));
        assert_eq!(query(&uri, "nope"), None);
    }
}
