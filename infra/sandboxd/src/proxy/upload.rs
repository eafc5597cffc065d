//! Large uploads: the bytes go from the client's socket to envd's inside the kernel, and this program copies none of them.
//! What envd makes of them: `pvm_e2b_wire::raw_upload`.

use std::io;
use std::os::fd::OwnedFd;

use futures::FutureExt as _;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::HEADER_ACCESS_TOKEN;
use pvm_e2b_wire::raw_upload::{HEADER_UPLOAD_BYTES, PATH, UPGRADE_UPLOAD, decode_answer};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::body::{self, Body};
use crate::client_stream::ClientStream;
use crate::engine::Runtime;
use crate::envd::EnvdError;

/// Least length of a body for which a connection of its own is worth it.
const LARGE: u64 = 1024 * 1024;
/// Bytes that the pipe between the two sockets should hold.
const PIPE_BYTES: usize = 256 * 1024;
/// Bytes that may be on their way to envd.
const SOCKET_BYTES: usize = 1024 * 1024;
/// Longest answer of envd: one line for each file.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why an upload ended without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// envd could not be talked to.
    #[error(transparent)]
    Envd(#[from] EnvdError),
    /// A connection broke.
    #[error("the upload broke off: {0}")]
    Broken(#[from] io::Error),
    /// The sandbox ended or stands still.
    #[error("the sandbox has ended")]
    Ended,
}

/// What became of it.
pub(super) enum Passed {
    /// envd has answered.
    Answered(Response<Body>),
    /// An envd of an earlier version: it has to be sent as any other request.
    NotKnown(Request<Incoming>),
}

/// The length of a body that is uploaded this way; nothing for all other requests.
pub(super) fn large_body(parts: &Parts) -> Option<u64> {
    let is_upload = parts.method == Method::POST
        && parts.uri.path() == "/files"
        && !parts.headers.contains_key(header::TRANSFER_ENCODING);
    let length = parts.headers.get(header::CONTENT_LENGTH).filter(|_| is_upload)?;
    length.to_str().ok()?.parse().ok().filter(|length| *length >= LARGE)
}

/// Passes an upload of so many bytes on. The answer ends the client's connection.
pub(super) async fn pass_on(
    runtime: &Runtime,
    request: Request<Incoming>,
    length: u64,
    client: &ClientStream,
) -> Result<Passed, UploadError> {
    let (parts, mut incoming) = request.into_parts();
    let mut response = runtime.envd.forward_upgrade(announcement(&parts, length)).await?;
    // An envd of an earlier version, which takes signatures for the paths that it knows only.
    let is_signed = !parts.headers.contains_key(HEADER_ACCESS_TOKEN);
    if response.status() == StatusCode::NOT_FOUND
        || response.status() == StatusCode::UNAUTHORIZED && is_signed
    {
        return Ok(Passed::NotKnown(Request::from_parts(parts, incoming)));
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let refusal = response.map(body::incoming);
        return Ok(Passed::Answered(refuse(refusal, incoming, length, client).await));
    }
    let inside = hyper::upgrade::on(&mut response).await.map_err(EnvdError::from)?;
    let inside = inside.downcast::<TokioIo<UnixStream>>().map_err(|_| EnvdError::Unresponsive)?;
    let mut answer = inside.read_buf.to_vec();
    let inside = inside.io.into_inner();
    let exchange = async {
        let read = take_what_was_read(&mut incoming, client, Some(&inside)).await?;
        let left = send(client, &inside, length.saturating_sub(read)).await?;
        read_answer(&inside, &mut answer).await?;
        client.throw_away(left).await;
        Ok::<_, UploadError>(())
    };
    tokio::select! {
        done = exchange => done?,
        () = runtime.streams.cancelled() => return Err(UploadError::Ended),
    }
    answered(response.headers(), &answer).map(Passed::Answered)
}

/// Answers an upload that nobody takes, once the client has sent it: before, it might not look at an answer.
pub(super) async fn refuse(
    refusal: Response<Body>,
    mut incoming: Incoming,
    length: u64,
    client: &ClientStream,
) -> Response<Body> {
    if let Ok(read) = take_what_was_read(&mut incoming, client, None).await {
        client.throw_away(length.saturating_sub(read)).await;
    }
    last(refusal)
}

/// The request as envd gets it first: without its body.
fn announcement(parts: &Parts, length: u64) -> Request<Body> {
    let mut request = Request::new(body::empty());
    *request.method_mut() = Method::POST;
    let query = parts.uri.query().unwrap_or_default();
    // The query was part of a URI already.
    *request.uri_mut() = format!("{PATH}?{query}").parse().unwrap_or_else(|_| Uri::from_static(PATH));
    let headers = request.headers_mut();
    headers.clone_from(&parts.headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::EXPECT);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE_UPLOAD));
    headers.insert(HEADER_UPLOAD_BYTES, HeaderValue::from(length));
    request
}

/// Takes the bytes of the body that the HTTP server has read together with the head, and keeps it from reading more.
/// They go to envd, if it wants them. Returns how many there were.
async fn take_what_was_read(
    incoming: &mut Incoming,
    client: &ClientStream,
    inside: Option<&UnixStream>,
) -> io::Result<u64> {
    client.hold();
    let mut read = 0;
    let mut is_dry = false;
    loop {
        let frame = if is_dry {
            // One may have been on its way.
            incoming.frame().now_or_never().flatten()
        } else {
            tokio::select! {
                biased;
                frame = incoming.frame() => frame,
                () = client.dry() => {
                    is_dry = true;
                    continue;
                }
            }
        };
        let Some(frame) = frame else { return Ok(read) };
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            if let Some(inside) = inside {
                write(inside, &data).await?;
            }
            read += data.len() as u64;
        }
    }
}

/// Moves so many bytes from the client to envd. Returns how many are left when envd wants no more: it has answered then.
async fn send(client: &ClientStream, inside: &UnixStream, bytes: u64) -> io::Result<u64> {
    let (output, input) = pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller one works as well.
    fcntl_setpipe_size(&input, PIPE_BYTES).ok();
    // Fewer and larger steps; the system's own limit may be lower.
    rustix::net::sockopt::set_socket_send_buffer_size(inside, SOCKET_BYTES).ok();
    let mut left = bytes;
    while left > 0 {
        let filled = tokio::select! {
            biased;
            answered = inside.readable() => return answered.map(|()| left),
            filled = fill(client, &input, left) => filled?,
        };
        left -= filled;
        match empty(&output, inside, filled).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                return Ok(left);
            }
            other => other?,
        }
    }
    Ok(0)
}

const MOVE: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Waits for bytes of the client and moves as many into the empty pipe as are there and fit.
async fn fill(client: &ClientStream, input: &OwnedFd, most: u64) -> io::Result<u64> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIPE_BYTES * 4);
    // Once: room in the socket lets the client send a little more at once, and going after that costs more than it brings.
    let taken = client.take(|socket| Ok(splice(socket, None, input, None, most, MOVE)?)).await?;
    if taken == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(taken as u64) }
}

async fn empty(output: &OwnedFd, inside: &UnixStream, bytes: u64) -> io::Result<()> {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    while left > 0 {
        let moved = inside
            .async_io(Interest::WRITABLE, || Ok(splice(output, None, inside, None, left, MOVE)?))
            .await?;
        left -= moved;
    }
    Ok(())
}

async fn write(inside: &UnixStream, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let written = inside.async_io(Interest::WRITABLE, || inside.try_write(data)).await?;
        data = &data[written..];
    }
    Ok(())
}

/// Reads to the end of the connection.
async fn read_answer(inside: &UnixStream, answer: &mut Vec<u8>) -> io::Result<()> {
    while answer.len() < MAX_ANSWER {
        answer.reserve(4096);
        match inside.async_io(Interest::READABLE, || inside.try_read_buf(answer)).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // How the end looks to us when envd has not read all that we sent. What it said came before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the answer is too long"))
}

/// The client's answer: what envd said at the end, with the headers it has sent before.
fn answered(headers: &HeaderMap, answer: &[u8]) -> Result<Response<Body>, UploadError> {
    let (status, json) = decode_answer(answer).ok_or(UploadError::Ended)?;
    let mut response = Response::new(body::full(json.to_vec()));
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| UploadError::Ended)?;
    response.headers_mut().clone_from(headers);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(last(response))
}

/// The last answer of its connection, which the HTTP server cannot read any more.
fn last(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.remove(header::UPGRADE);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
