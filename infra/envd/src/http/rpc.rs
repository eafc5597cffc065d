//! Connect calls over HTTP: unary ones, streams of answers, and streams of requests.

use std::future::Future;
use std::io;
use std::pin::pin;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use pvm_e2b_wire::connect::{
    self, CONTENT_TYPE_STREAM, CONTENT_TYPE_UNARY, Code, ConnectError, EnvelopeDecoder, MAX_ENVELOPE_BYTES,
};
use pvm_e2b_wire::{HEADER_KEEPALIVE, HEADER_TIMEOUT_MS};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::request::{BodyError, Buffers, Reserved, header, media_type, read_body};
use super::{Request, RequestBody, Response, full, reply, stream};

/// Seconds of silence after which a stream says that it lives, when the client does not ask for another time.
const DEFAULT_KEEPALIVE_SECONDS: u64 = 90;
/// The most that a client can ask for: a day. Times far beyond it are no moments of the clock any more.
const MAX_KEEPALIVE_SECONDS: u64 = 24 * 3600;

impl From<BodyError> for ConnectError {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge(_) | BodyError::Busy => Code::ResourceExhausted,
            BodyError::Broken(_) => Code::Canceled,
        };
        Self::new(code, error.to_string())
    }
}

/// A call that the caller got wrong.
pub fn invalid(message: impl Into<String>) -> ConnectError {
    ConnectError::new(Code::InvalidArgument, message)
}

/// A fault of ours or of the system.
pub fn internal(message: impl Into<String>) -> ConnectError {
    ConnectError::new(Code::Internal, message)
}

/// How long a stream may be silent.
pub fn keepalive(headers: &HeaderMap) -> Duration {
    let asked = header(headers, HEADER_KEEPALIVE).and_then(|text| text.trim().parse::<u64>().ok());
    let seconds = asked.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_KEEPALIVE_SECONDS);
    Duration::from_secs(seconds.min(MAX_KEEPALIVE_SECONDS))
}

/// How long a call may take; `None` is for ever.
///
/// # Errors
/// [`Code::InvalidArgument`] when the header is not a number.
pub fn time_limit(headers: &HeaderMap) -> Result<Option<Duration>, ConnectError> {
    connect::parse_timeout(header(headers, HEADER_TIMEOUT_MS))
}

/// The error of a call whose time ran out, in the words of the official server.
pub fn deadline_exceeded() -> ConnectError {
    ConnectError::new(Code::DeadlineExceeded, "context deadline exceeded")
}

/// Serves a unary call.
pub async fn unary<Q, A, F>(buffers: &Buffers, request: Request, work: impl FnOnce(Q) -> F) -> Response
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Future<Output = Result<A, ConnectError>>,
{
    if let Some(refusal) = refuse(&request, CONTENT_TYPE_UNARY) {
        return refusal;
    }
    match unary_result(buffers, request, work).await {
        Ok(answer) => reply::json(StatusCode::OK, &answer),
        Err(error) => unary_error(&error),
    }
}

async fn unary_result<Q, A, F>(
    buffers: &Buffers,
    request: Request,
    work: impl FnOnce(Q) -> F,
) -> Result<A, ConnectError>
where
    Q: DeserializeOwned,
    F: Future<Output = Result<A, ConnectError>>,
{
    check_version(request.headers())?;
    let limit = time_limit(request.headers())?;
    let is_compressed = is_compressed(request.headers(), "content-encoding")?;
    let (body, reserved) = read_body(buffers, request.into_body(), MAX_ENVELOPE_BYTES).await?;
    let body = if is_compressed { gunzip(&body)? } else { body };
    let question = decode(&body)?;
    // Decoded, the text is no longer needed.
    drop((body, reserved));
    let work = work(question);
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work).await.unwrap_or_else(|_| Err(deadline_exceeded())),
    }
}

/// A unary error: its code's HTTP status and the error as JSON.
pub fn unary_error(error: &ConnectError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply::with_body(status, full(error.to_json()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_UNARY));
    response
}

/// Serves a call with one request and a stream of answers. A call that fails before the first answer is a
/// stream too: of the error alone.
///
/// `work` may take its time before the stream starts; the headers of the answer go out when it has returned.
pub async fn server_stream<Q, A, F, S>(
    buffers: &Buffers,
    request: Request,
    work: impl FnOnce(Q) -> F,
) -> Response
where
    Q: DeserializeOwned,
    A: Serialize + Send + 'static,
    F: Future<Output = Result<S, ConnectError>>,
    S: Stream<Item = Result<A, ConnectError>> + Send + 'static,
{
    if let Some(refusal) = refuse(&request, CONTENT_TYPE_STREAM) {
        return refusal;
    }
    let started = async {
        let limit = time_limit(request.headers())?;
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut messages = Messages::new(buffers, request)?;
        let question = messages.next().await?.ok_or_else(|| invalid("the request stream has no message"))?;
        drop(messages);
        Ok((work(question).await?, deadline))
    };
    match started.await {
        Ok((answers, deadline)) => stream_reply(stream(frames(answers, deadline))),
        Err(error) => stream_reply(full(connect::encode_end(Some(&error)))),
    }
}

/// Turns answers into frames, up to the end frame or the deadline.
fn frames<A: Serialize>(
    answers: impl Stream<Item = Result<A, ConnectError>>,
    deadline: Option<Instant>,
) -> impl Stream<Item = io::Result<Bytes>> {
    async_stream::stream! {
        let mut answers = pin!(answers);
        loop {
            let next = match deadline {
                None => answers.next().await,
                Some(deadline) => tokio::select! {
                    // The deadline first: a stream that always has more must not outlive it.
                    biased;
                    () = sleep_until(deadline) => Some(Err(deadline_exceeded())),
                    next = answers.next() => next,
                },
            };
            match next {
                Some(Ok(answer)) => yield connect::encode_message(&answer).map_err(io::Error::other),
                Some(Err(error)) => {
                    yield Ok(connect::encode_end(Some(&error)));
                    return;
                }
                None => {
                    yield Ok(connect::encode_end(None));
                    return;
                }
            }
        }
    }
}

/// Serves a call with a stream of requests and one answer.
pub async fn client_stream<Q, A, F>(
    buffers: &Buffers,
    request: Request,
    work: impl FnOnce(Messages<Q>) -> F,
) -> Response
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Future<Output = Result<A, ConnectError>>,
{
    if let Some(refusal) = refuse(&request, CONTENT_TYPE_STREAM) {
        return refusal;
    }
    let answer = async {
        let limit = time_limit(request.headers())?;
        let work = work(Messages::new(buffers, request)?);
        match limit {
            None => work.await,
            Some(limit) => timeout(limit, work).await.unwrap_or_else(|_| Err(deadline_exceeded())),
        }
    };
    let frames = match answer.await {
        Ok(answer) => match connect::encode_message(&answer) {
            Ok(message) => [message, connect::encode_end(None)].concat(),
            Err(error) => connect::encode_end(Some(&internal(error.to_string()))).to_vec(),
        },
        Err(error) => connect::encode_end(Some(&error)).to_vec(),
    };
    stream_reply(full(frames))
}

fn stream_reply(body: super::Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_STREAM));
    response
}

/// The messages of a request, one after the other.
#[derive(Debug)]
pub struct Messages<Q> {
    body: RequestBody,
    decoder: EnvelopeDecoder,
    reserved: Reserved,
    message: std::marker::PhantomData<fn() -> Q>,
}

impl<Q: DeserializeOwned> Messages<Q> {
    fn new(buffers: &Buffers, request: Request) -> Result<Self, ConnectError> {
        check_version(request.headers())?;
        let decoder = EnvelopeDecoder::default();
        let is_compressed = is_compressed(request.headers(), "connect-content-encoding")?;
        Ok(Self {
            body: request.into_body(),
            decoder: if is_compressed { decoder.with_compression() } else { decoder },
            reserved: buffers.reserve(),
            message: std::marker::PhantomData,
        })
    }

    /// The next message, or `None` at the end.
    ///
    /// # Errors
    /// When the bytes are not a stream of messages, or the connection broke.
    pub async fn next(&mut self) -> Result<Option<Q>, ConnectError> {
        loop {
            match self.decoder.next_envelope() {
                Ok(Some(envelope)) if envelope.is_end() => return Ok(None),
                Ok(Some(envelope)) => {
                    let message = if envelope.is_compressed() {
                        gunzip(&envelope.payload).and_then(|text| decode(&text))
                    } else {
                        decode(&envelope.payload)
                    };
                    self.reserved.shrink(envelope.payload.len() + connect::HEADER_BYTES);
                    return message.map(Some);
                }
                Ok(None) => {}
                Err(error @ connect::FrameError::TooLarge { .. }) => {
                    return Err(ConnectError::new(Code::ResourceExhausted, error.to_string()));
                }
                Err(error) => return Err(invalid(error.to_string())),
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.reserved.grow(data.len())?;
                    self.decoder.push(&data);
                }
                Some(Err(error)) => return Err(BodyError::Broken(error.to_string()).into()),
                None => {
                    self.decoder.finish().map_err(|error| invalid(error.to_string()))?;
                    return Ok(None);
                }
            }
        }
    }
}

fn decode<Q: DeserializeOwned>(text: &[u8]) -> Result<Q, ConnectError> {
    serde_json::from_slice(text).map_err(|error| invalid(format!("the message is not as expected: {error}")))
}

/// The one version of the protocol there is may be named, and no other.
fn check_version(headers: &HeaderMap) -> Result<(), ConnectError> {
    match header(headers, "connect-protocol-version") {
        None | Some("1") => Ok(()),
        Some(other) => Err(invalid(format!("connect-protocol-version must be \"1\": got {other:?}"))),
    }
}

/// Whether the header of this name announces gzip.
fn is_compressed(headers: &HeaderMap, name: &str) -> Result<bool, ConnectError> {
    match header(headers, name).unwrap_or("identity").to_ascii_lowercase().as_str() {
        "identity" | "" => Ok(false),
        "gzip" => Ok(true),
        other => Err(ConnectError::new(
            Code::Unimplemented,
            format!("unknown compression {other:?}: supported encodings are gzip and identity"),
        )),
    }
}

/// Undoes gzip, holding no more than a message may have.
fn gunzip(data: &[u8]) -> Result<Bytes, ConnectError> {
    use std::io::Read as _;
    let mut text = Vec::new();
    MultiGzDecoder::new(data)
        .take(MAX_ENVELOPE_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| invalid(format!("the request body is not gzip: {error}")))?;
    if text.len() > MAX_ENVELOPE_BYTES {
        return Err(BodyError::TooLarge(MAX_ENVELOPE_BYTES).into());
    }
    Ok(Bytes::from(text))
}

/// The answer to a request that is no call of this kind at all.
fn refuse(request: &Request, content_type: &'static str) -> Option<Response> {
    if request.method() != Method::POST {
        let mut response = reply::with_body(StatusCode::METHOD_NOT_ALLOWED, super::empty());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    if media_type(request.headers()) != content_type {
        let mut response = reply::with_body(StatusCode::UNSUPPORTED_MEDIA_TYPE, super::empty());
        response.headers_mut().insert("accept-post", HeaderValue::from_static(content_type));
        return Some(response);
    }
    None
}
