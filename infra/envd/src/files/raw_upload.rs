//! Large uploads as plain bytes of the connection: see [`pvm_e2b_wire::raw_upload`]. One file that is not compressed goes
//! from the socket to the disk inside the kernel.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::envd_http::UploadedFile;
use pvm_e2b_wire::raw_upload::{HEADER_UPLOAD_BYTES, UPGRADE_UPLOAD, encode_answer};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::upload::{self, Target, Upload};
use super::{FileError, blocking, metadata};
use crate::daemon::Daemon;
use crate::http::request::header;
use crate::http::{Request, Response, empty, reply};

/// Bytes that a pipe between socket and file should hold. Several are open at one time, and the kernel bounds a user's.
const PIPE_BYTES: usize = 256 * 1024;
/// Bytes that are written at the end in the ordinary way: before Linux 6.4, spliced ones tell no watcher.
const TAIL_BYTES: u64 = 16 * 1024;
/// Bytes read at once of a body that has to be looked at.
const CHUNK: usize = 256 * 1024;

/// Serves the request.
pub fn serve(daemon: &Arc<Daemon>, request: Request) -> Response {
    accept(daemon, request).unwrap_or_else(|error| error.reply())
}

fn accept(daemon: &Arc<Daemon>, mut request: Request) -> Result<Response, FileError> {
    if header(request.headers(), "upgrade") != Some(UPGRADE_UPLOAD) {
        return Err(FileError::new(StatusCode::UPGRADE_REQUIRED, "this path needs `Upgrade: pvm-upload`"));
    }
    let length = header(request.headers(), HEADER_UPLOAD_BYTES)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| FileError::bad("the number of bytes is missing"))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let upload = Upload::check(daemon, &head)?;
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // Whoever sent it may have gone; there is nobody to tell.
            receive(upgraded, length, upload).await.ok();
        }
    });
    let mut response = reply::with_body(StatusCode::SWITCHING_PROTOCOLS, empty());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(UPGRADE_UPLOAD));
    Ok(response)
}

async fn receive(upgraded: Upgraded, length: u64, upload: Upload) -> io::Result<()> {
    // The sandbox server comes by a unix socket.
    let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else { return Ok(()) };
    let body = Arc::new(Body { stream: parts.io.into_inner(), start: parts.read_buf, length });
    let result = match upload.plain_path().map(PathBuf::from) {
        Some(path) => body.write_to(path, &upload.target).await.map(|file| vec![file]),
        None => upload.take(Arc::clone(&body).pieces()).await,
    };
    let response = upload::answer(&result);
    let status = response.status().as_u16();
    let json = response.into_body().collect().await?.to_bytes();
    let answer = encode_answer(status, &json);
    let mut rest = answer.as_slice();
    while !rest.is_empty() {
        let written = body.stream.async_io(Interest::WRITABLE, || body.stream.try_write(rest)).await?;
        rest = &rest[written..];
    }
    Ok(())
}

/// The bytes of an upload: some that came with the head, the others on the socket.
#[derive(Debug)]
struct Body {
    stream: UnixStream,
    start: Bytes,
    length: u64,
}

impl Body {
    /// Bytes that are on the socket.
    fn rest(&self) -> u64 {
        self.length.saturating_sub(self.start.len() as u64)
    }

    /// All of it, piece by piece.
    fn pieces(self: Arc<Self>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        async_stream::try_stream! {
            let mut left = self.rest();
            if !self.start.is_empty() {
                yield self.start.clone();
            }
            let mut buffer = BytesMut::new();
            while left > 0 {
                buffer.reserve(CHUNK);
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.capacity());
                let read = self.stream.async_io(Interest::READABLE, || {
                    self.stream.try_read_buf(&mut (&mut buffer).limit(most))
                });
                left -= some(read.await?)? as u64;
                yield buffer.split().freeze();
            }
        }
    }

    /// Writes all of it to one file. While one pipe is emptied into the file, the other one is filled.
    async fn write_to(&self, path: PathBuf, target: &Target) -> Result<UploadedFile, FileError> {
        let broken = |error: io::Error| FileError::bad(format!("error reading the request body: {error}"));
        let pipes = || FileError::system("making a pipe", &io::Error::last_os_error());
        let (mut ready, mut spare) = (Pipe::new().ok_or_else(pipes)?, Pipe::new().ok_or_else(pipes)?);
        let tail = self.rest().min(TAIL_BYTES);
        let mut left = self.rest() - tail;
        left -= ready.fill(&self.stream, left).await.map_err(broken)?;
        let mut file = {
            let (path, account, start) = (path.clone(), target.account.clone(), self.start.clone());
            blocking(move || {
                let mut file = upload::open(&path, &account)?;
                file.write_all(&start).map_err(written)?;
                Ok(file)
            })
            .await?
        };
        while ready.bytes > 0 {
            let step = blocking(move || {
                ready.empty_into(&file).map_err(written)?;
                Ok((ready, file))
            });
            let (emptied, filled) = futures::join!(step, spare.fill(&self.stream, left));
            (ready, file) = emptied?;
            left -= filled.map_err(broken)?;
            std::mem::swap(&mut ready, &mut spare);
        }
        let end = self.read_tail(tail).await.map_err(broken)?;
        let labels = target.metadata.clone();
        blocking(move || {
            file.write_all(&end).map_err(written)?;
            metadata::replace(&file, &labels)
                .map_err(|error| FileError::system("error storing metadata", &error))
        })
        .await?;
        Ok(target.uploaded(&path))
    }

    async fn read_tail(&self, bytes: u64) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(bytes).unwrap_or_default();
        let mut tail = Vec::with_capacity(bytes);
        while tail.len() < bytes {
            let most = bytes - tail.len();
            let read = self
                .stream
                .async_io(Interest::READABLE, || self.stream.try_read_buf(&mut (&mut tail).limit(most)));
            some(read.await?)?;
        }
        Ok(tail)
    }
}

fn written(error: io::Error) -> FileError {
    FileError::system("error writing file", &error)
}

/// A number of bytes that were read, which must not be none.
fn some(read: usize) -> io::Result<usize> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

/// Bytes on their way from the socket to the file. They are pages of the kernel's; nobody copies them on the way.
#[derive(Debug)]
struct Pipe {
    output: File,
    input: OwnedFd,
    bytes: u64,
}

impl Pipe {
    fn new() -> Option<Self> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        // A smaller one works as well.
        fcntl_setpipe_size(&input, PIPE_BYTES).ok();
        Some(Self { output: output.into(), input, bytes: 0 })
    }

    /// Waits for bytes and takes as many as are there and fit, `most` of them at most.
    async fn fill(&mut self, stream: &UnixStream, most: u64) -> io::Result<u64> {
        if most == 0 {
            return Ok(0);
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIPE_BYTES * 4);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        // The pipe is empty: that nothing could be moved means that nothing is there.
        let take = || Ok(splice(stream, None, &self.input, None, most, flags)?);
        self.bytes = some(stream.async_io(Interest::READABLE, take).await?)? as u64;
        Ok(self.bytes)
    }

    /// Writes what is in it to the end of a file. Blocks.
    fn empty_into(&mut self, file: &File) -> io::Result<()> {
        while self.bytes > 0 {
            let most = usize::try_from(self.bytes).unwrap_or(usize::MAX);
            let moved = match splice(&self.output, None, file, None, most, SpliceFlags::MOVE) {
                Err(rustix::io::Errno::INVAL) => self.copy_into(file)?,
                other => some(other?)?,
            };
            self.bytes -= moved as u64;
        }
        Ok(())
    }

    /// For file systems that cannot be spliced to.
    fn copy_into(&self, mut file: &File) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let read = some((&self.output).read(&mut buffer)?)?;
        file.write_all(&buffer[..read])?;
        Ok(read)
    }
}
