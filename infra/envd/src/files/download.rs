//! `GET /files`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt as _};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    HeaderValue, LAST_MODIFIED, VARY,
};
use hyper::{HeaderMap, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pvm_e2b_wire::signature::Operation;
use tokio::task::{JoinHandle, spawn_blocking};

use super::conditions::{self, Encoding, Part, Range, Verdict};
use super::{FileError, authorize, blocking, user};
use crate::daemon::Daemon;
use crate::http::request::query;
use crate::http::{Request, Response, full, reply, stream};
use crate::paths;

/// Bytes read at once. One piece is being sent while the next is read.
const CHUNK: usize = 512 * 1024;

/// Serves the request.
pub async fn serve(daemon: &Arc<Daemon>, request: &Request) -> Response {
    send(daemon, request).await.unwrap_or_else(|error| error.reply())
}

/// An open file with what was found out on opening it.
struct Opened {
    file: Arc<File>,
    size: u64,
    modified: SystemTime,
    first: Bytes,
}

async fn send(daemon: &Arc<Daemon>, request: &Request) -> Result<Response, FileError> {
    let (headers, uri) = (request.headers(), request.uri());
    authorize(daemon, headers, uri, Operation::Read)?;
    let account = user(daemon, query(uri, "username"))?;
    let path = paths::resolve(
        &query(uri, "path").unwrap_or_default(),
        &account,
        daemon.default_workdir().as_deref(),
    )
    .map_err(|error| FileError::bad(error.to_string()))?;
    let Some(mut encoding) = conditions::encoding(headers) else {
        let message = "no acceptable encoding: supported are identity and gzip";
        return Err(FileError::new(StatusCode::NOT_ACCEPTABLE, message));
    };
    if conditions::wants_plain_bytes(headers) {
        encoding = Encoding::Identity;
    }
    let opened = blocking({
        let path = path.clone();
        move || open(&path)
    })
    .await?;

    let kind = mime_guess::from_path(&path).first_or_octet_stream();
    let mut response = contents(headers, &opened, encoding, kind.as_ref());
    if response.status().is_success() {
        response.headers_mut().entry(CONTENT_TYPE).or_insert(media_type(kind.as_ref()));
        set(&mut response, CONTENT_DISPOSITION, &disposition(&path));
    }
    if encoding == Encoding::Identity {
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let Some(date) = conditions::format_date(opened.modified) {
        set(&mut response, LAST_MODIFIED, &date);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    Ok(response)
}

/// What of the file is sent, and how.
fn contents(headers: &HeaderMap, opened: &Opened, encoding: Encoding, kind: &str) -> Response {
    // Files of the kernel say that they are empty and are not: what was read says how they are.
    let unsized_file = opened.size == 0 && !opened.first.is_empty();
    let verdict = if unsized_file {
        Verdict::Send(Part::Whole)
    } else {
        conditions::judge(headers, opened.size, opened.modified)
    };
    match verdict {
        Verdict::NotModified => reply::with_body(StatusCode::NOT_MODIFIED, crate::http::empty()),
        Verdict::Failed => reply::with_body(StatusCode::PRECONDITION_FAILED, crate::http::empty()),
        Verdict::Send(Part::Unsatisfiable) => {
            let mut response =
                reply::error_reply(StatusCode::RANGE_NOT_SATISFIABLE, "the range is outside the file");
            set(&mut response, CONTENT_RANGE, &format!("bytes */{}", opened.size));
            response
        }
        Verdict::Send(_) if encoding == Encoding::Gzip => {
            let body = compressed(Arc::clone(&opened.file), opened.first.clone());
            let mut response = Response::new(stream(body));
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        Verdict::Send(_) if unsized_file => {
            Response::new(stream(pieces(Arc::clone(&opened.file), opened.first.clone(), 0, u64::MAX)))
        }
        Verdict::Send(Part::Whole) => plain(opened, 0, opened.size, StatusCode::OK),
        Verdict::Send(Part::Range((first, last))) => {
            let mut response = plain(opened, first, last - first + 1, StatusCode::PARTIAL_CONTENT);
            set(&mut response, CONTENT_RANGE, &format!("bytes {first}-{last}/{}", opened.size));
            response
        }
        Verdict::Send(Part::Ranges(ranges)) => several(opened, ranges, kind),
    }
}

/// Several ranges, each with a head of its own.
fn several(opened: &Opened, ranges: Vec<Range>, kind: &str) -> Response {
    let boundary = boundary();
    let head = |(first, last): &Range| {
        let place = format!("Content-Range: bytes {first}-{last}/{}", opened.size);
        format!("\r\n--{boundary}\r\n{place}\r\nContent-Type: {kind}\r\n\r\n")
    };
    let mut heads: Vec<String> = ranges.iter().map(head).collect();
    if let Some(first) = heads.first_mut() {
        // Nothing stands before the first boundary, not even the end of a line.
        first.drain(..2);
    }
    let end = format!("\r\n--{boundary}--\r\n");
    let texts = heads.iter().map(String::len).sum::<usize>() + end.len();
    let length = texts as u64 + ranges.iter().map(|(first, last)| last - first + 1).sum::<u64>();
    let file = Arc::clone(&opened.file);
    let body = async_stream::stream! {
        for (head, (first, last)) in heads.into_iter().zip(ranges) {
            yield Ok(Bytes::from(head));
            let mut data = std::pin::pin!(pieces(Arc::clone(&file), Bytes::new(), first, last - first + 1));
            while let Some(piece) = data.next().await {
                let broken = piece.is_err();
                yield piece;
                if broken {
                    return;
                }
            }
        }
        yield Ok(Bytes::from(end));
    };
    let mut response = reply::with_body(StatusCode::PARTIAL_CONTENT, stream(body));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    set(&mut response, CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
    response
}

/// A text that stands in no file, but by a chance of one in 2^128.
fn boundary() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", random(), random())
}

fn media_type(kind: &str) -> HeaderValue {
    HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

fn set(response: &mut Response, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// `inline`, with the name in the form that takes any character.
fn disposition(path: &Path) -> String {
    let name = paths::name_of(path);
    let plain = name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\');
    if plain {
        format!("inline; filename=\"{name}\"")
    } else {
        format!("inline; filename*=utf-8''{}", utf8_percent_encode(&name, NON_ALPHANUMERIC))
    }
}

fn open(path: &PathBuf) -> Result<Opened, FileError> {
    // Without blocking: opening a pipe must not wait for its other end.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let message = format!("path '{}' does not exist", path.display());
            return Err(FileError::new(StatusCode::NOT_FOUND, message));
        }
        Err(error) => {
            return Err(FileError::system(&format!("error opening file '{}'", path.display()), &error));
        }
    };
    let failed = |error: io::Error| FileError::system("error getting file info", &error);
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(FileError::bad(format!("path '{}' is a directory", path.display())));
    }
    if !metadata.is_file() {
        return Err(FileError::bad(format!("path '{}' is not a regular file", path.display())));
    }
    let first = read(&file, 0, CHUNK).map_err(|error| FileError::system("error reading file", &error))?;
    Ok(Opened {
        size: metadata.len(),
        modified: metadata.modified().map_err(failed)?,
        file: Arc::new(file),
        first,
    })
}

/// Reads up to `length` bytes at a position; fewer only at the end of the file.
fn read(file: &File, mut position: u64, length: usize) -> io::Result<Bytes> {
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut data), position) {
            Ok(0) => break,
            Ok(count) => position += count as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Bytes::from(data))
}

fn plain(opened: &Opened, start: u64, length: u64, status: StatusCode) -> Response {
    let have = opened.first.len() as u64;
    if start + length <= have {
        let bytes = opened.first.slice(start as usize..(start + length) as usize);
        return reply::with_body(status, full(bytes));
    }
    let first = if start < have { opened.first.slice(start as usize..) } else { Bytes::new() };
    let mut response =
        reply::with_body(status, stream(pieces(Arc::clone(&opened.file), first, start, length)));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn read_ahead(file: &Arc<File>, position: u64, length: u64) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK);
    spawn_blocking(move || read(&file, position, length))
}

/// `length` bytes from `start` on, of which `first` are there already. A file that became shorter meanwhile
/// breaks the connection, so that the client notices.
fn pieces(file: Arc<File>, first: Bytes, start: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> {
    async_stream::stream! {
        let endless = length == u64::MAX;
        let mut position = start + first.len() as u64;
        let mut left = length - first.len() as u64;
        let mut next = read_ahead(&file, position, left);
        if !first.is_empty() {
            yield Ok(first);
        }
        while left > 0 {
            let data = match next.await.map_err(io::Error::other).flatten() {
                Ok(data) => data,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            if data.is_empty() {
                if !endless {
                    yield Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
                }
                return;
            }
            position += data.len() as u64;
            left -= data.len() as u64;
            next = read_ahead(&file, position, left);
            yield Ok(data);
        }
    }
}

/// The whole file, compressed. Compressing is work, so it is done where it may take its time.
fn compressed(file: Arc<File>, first: Bytes) -> impl Stream<Item = io::Result<Bytes>> {
    async_stream::stream! {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut data = first;
        let mut position = 0;
        loop {
            let last = data.is_empty();
            position += data.len() as u64;
            let file = Arc::clone(&file);
            let step = spawn_blocking(move || {
                encoder.write_all(&data)?;
                if last {
                    return Ok((None, Bytes::from(encoder.finish()?), Bytes::new()));
                }
                let output = Bytes::from(std::mem::take(encoder.get_mut()));
                let next = read(&file, position, CHUNK)?;
                Ok::<_, io::Error>((Some(encoder), output, next))
            });
            match step.await.map_err(io::Error::other).flatten() {
                Ok((again, output, next)) => {
                    if !output.is_empty() {
                        yield Ok(output);
                    }
                    let Some(again) = again else { return };
                    encoder = again;
                    data = next;
                }
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_or_encoded() {
        assert_eq!(disposition(Path::new("/a/b c.txt")), "inline; filename=\"b c.txt\"");
        assert_eq!(disposition(Path::new("/a/ü\"")), "inline; filename*=utf-8''%C3%BC%22");
    }
}
