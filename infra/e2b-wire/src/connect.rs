//! The Connect protocol over bytes: error codes, unary error bodies, and the envelopes of streams.
//!
//! A stream is a sequence of envelopes: one flag byte, the payload's length as a big-endian `u32`, the payload.
//! The last envelope has flag [`FLAG_END_STREAM`] and carries an [`EndStream`]. The HTTP status of a stream is
//! always 200.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Content type of unary calls.
pub const CONTENT_TYPE_UNARY: &str = "application/json";
/// Content type of streams, both ways.
pub const CONTENT_TYPE_STREAM: &str = "application/connect+json";
/// Flag of a compressed envelope. A decoder takes one only when it was told that compression was announced.
pub const FLAG_COMPRESSED: u8 = 0b01;
/// Flag of the last envelope of a stream.
pub const FLAG_END_STREAM: u8 = 0b10;
/// Largest payload of one envelope that a server takes, in bytes. Bounds what one client can make us hold.
pub const MAX_ENVELOPE_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of an envelope before its payload.
pub const HEADER_BYTES: usize = 5;

/// Error codes of the Connect protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The caller went away or gave up.
    Canceled,
    /// Not told.
    Unknown,
    /// The request is wrong whatever the state.
    InvalidArgument,
    /// Time ran out.
    DeadlineExceeded,
    /// The named thing is not there.
    NotFound,
    /// The thing to be made is there.
    AlreadyExists,
    /// Not allowed.
    PermissionDenied,
    /// Too much asked for.
    ResourceExhausted,
    /// Wrong in the present state.
    FailedPrecondition,
    /// Lost against a concurrent call.
    Aborted,
    /// Outside the valid range.
    OutOfRange,
    /// The server does not do this.
    Unimplemented,
    /// A fault of the server.
    Internal,
    /// Not now.
    Unavailable,
    /// Data is gone or broken.
    DataLoss,
    /// Who is calling is not known.
    Unauthenticated,
}

impl Code {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// HTTP status of a unary answer with this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Canceled => 499,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The code that a plain HTTP error (one without a Connect body) stands for.
    pub fn from_http_status(status: u16) -> Self {
        match status {
            400 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            409 => Self::AlreadyExists,
            413 | 429 => Self::ResourceExhausted,
            499 => Self::Canceled,
            501 => Self::Unimplemented,
            502 | 503 => Self::Unavailable,
            504 => Self::DeadlineExceeded,
            500 => Self::Internal,
            _ => Self::Unknown,
        }
    }
}

/// Ends the message of a listing that is too long for one answer.
pub const TOO_MANY_ENTRIES: &str = "list with a smaller depth";

/// An error of a call: the body of a unary error answer, and the `error` of an [`EndStream`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ConnectError {
    /// What kind of error.
    pub code: Code,
    /// What went wrong, for people.
    #[serde(default)]
    pub message: String,
}

impl ConnectError {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Whether something is used up that waiting does not bring back. The code, which is E2B's, does not tell that from a
    /// server that has too much to do; the message does.
    pub fn is_lasting(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        self.code == Code::ResourceExhausted
            && ["no space left on device", "quota exceeded", TOO_MANY_ENTRIES]
                .iter()
                .any(|text| message.contains(text))
    }

    /// Reads the error out of an HTTP answer that is not 200: a Connect body when there is one, else the
    /// status, with a plain `message` where the body has one (`{"code": 502, "message": "..."}`).
    pub fn from_http(status: u16, body: &[u8]) -> Self {
        if let Ok(error) = serde_json::from_slice::<Self>(body) {
            return error;
        }
        #[derive(Deserialize)]
        struct Plain {
            message: String,
        }
        let message = serde_json::from_slice::<Plain>(body).map_or_else(
            |_| String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned(),
            |p| p.message,
        );
        Self::new(Code::from_http_status(status), message)
    }

    /// The body of a unary error answer.
    pub fn to_json(&self) -> Bytes {
        // Two strings always encode; an empty object would still be a valid error body.
        serde_json::to_vec(self).map_or_else(|_| Bytes::from_static(b"{}"), Bytes::from)
    }
}

/// Payload of the last envelope of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndStream {
    /// Absent when the call succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ConnectError>,
    /// Trailers; unused by E2B.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Vec<String>>,
}

/// A decoded envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// [`FLAG_END_STREAM`] and [`FLAG_COMPRESSED`], or 0.
    pub flags: u8,
    /// JSON text, compressed where the flags say so.
    pub payload: Bytes,
}

impl Envelope {
    /// Whether it is the last of its stream.
    pub fn is_end(&self) -> bool {
        self.flags & FLAG_END_STREAM != 0
    }

    /// Whether its payload is compressed, as the request's headers said it could be.
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }
}

/// Why a stream of envelopes cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An envelope announces more than the reader takes.
    #[error("message of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was announced, in bytes.
        size: usize,
        /// What is taken, in bytes.
        limit: usize,
    },
    /// An envelope is compressed although the headers announced no compression.
    #[error("a message is compressed, but there is no `connect-content-encoding: gzip`")]
    Compressed,
    /// Flag bits that the protocol does not know.
    #[error("unknown flags {0:#04x} in a message header")]
    UnknownFlags(u8),
    /// The bytes ended inside an envelope.
    #[error("the stream ended inside a message")]
    Truncated,
}

/// Wraps a payload into an envelope.
pub fn encode(flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_u8(flags);
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

/// Wraps a message into an envelope, encoding straight into the frame.
///
/// # Errors
/// When the message cannot be encoded as JSON, which no type of this crate does.
pub fn encode_message<T: Serialize>(message: &T) -> Result<Bytes, serde_json::Error> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, message)?;
    let length = (frame.len() - HEADER_BYTES) as u32;
    frame[1..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(Bytes::from(frame))
}

/// The last envelope of a stream.
pub fn encode_end(error: Option<&ConnectError>) -> Bytes {
    let end = EndStream { error: error.cloned(), metadata: BTreeMap::new() };
    encode(FLAG_END_STREAM, &serde_json::to_vec(&end).unwrap_or_else(|_| b"{}".to_vec()))
}

/// Takes a stream of bytes apart into envelopes, however the bytes are split.
#[derive(Debug)]
pub struct EnvelopeDecoder {
    buffer: BytesMut,
    limit: usize,
    compression: bool,
}

impl Default for EnvelopeDecoder {
    fn default() -> Self {
        Self::new(MAX_ENVELOPE_BYTES)
    }
}

impl EnvelopeDecoder {
    /// A decoder that takes payloads up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit, compression: false }
    }

    /// The same for a stream that announced a compression: single envelopes may then be compressed.
    #[must_use]
    pub fn with_compression(self) -> Self {
        Self { compression: true, ..self }
    }

    /// Adds bytes as they came.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole envelope, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`] when the stream cannot be read on; the size limit is checked before the payload came.
    pub fn next_envelope(&mut self) -> Result<Option<Envelope>, FrameError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let flags = self.buffer[0];
        if flags & FLAG_COMPRESSED != 0 && !self.compression {
            return Err(FrameError::Compressed);
        }
        if flags & !(FLAG_END_STREAM | FLAG_COMPRESSED) != 0 {
            return Err(FrameError::UnknownFlags(flags));
        }
        let size =
            u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        if size > self.limit {
            return Err(FrameError::TooLarge { size, limit: self.limit });
        }
        if self.buffer.len() < HEADER_BYTES + size {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Envelope { flags, payload: self.buffer.split_to(size).freeze() }))
    }

    /// Call when the bytes ended.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when they ended inside an envelope.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

/// Reads the value of `Connect-Timeout-Ms`: `None` when there is no limit (absent or 0).
///
/// # Errors
/// [`Code::InvalidArgument`] when the value is not a whole number of at most ten digits.
pub fn parse_timeout(value: Option<&str>) -> Result<Option<Duration>, ConnectError> {
    let Some(text) = value.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = || {
        ConnectError::new(
            Code::InvalidArgument,
            format!(
                "Connect-Timeout-Ms must be a whole number of milliseconds of at most 10 digits, not {text:?}"
            ),
        )
    };
    if text.len() > 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let millis: u64 = text.parse().map_err(|_| wrong())?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}
