//! `pvm.Workspace/Read` and `/Write`: many files in one request. A workspace of ten thousand files is otherwise ten
//! thousand requests each way.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http_body_util::BodyDataStream;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::workspace::{
    MAX_HEAD_BYTES, MAX_READ_BYTES, ReadHead, ReadRequest, WriteHead, WriteKind, WriteResponse,
};
use rustix::fs::FileType;

use super::place::{Root, Unfinished, told};
use crate::daemon::Daemon;
use crate::http::request::{query, read_body};
use crate::http::rpc::{internal, invalid, unary_error};
use crate::http::{Request, RequestBody, Response, full, reply};
use crate::paths;

/// Bytes of a request that asks for files: a few hundred paths.
const MAX_QUESTION: usize = 4 * 1024 * 1024;
/// Bytes written at once.
const CHUNK: usize = 512 * 1024;

fn root(daemon: &Daemon, headers: &hyper::HeaderMap, path: &str) -> Result<Root, ConnectError> {
    let account = daemon.caller(headers)?;
    let path = paths::resolve(path, &account, daemon.default_workdir().as_deref())
        .map_err(|error| invalid(error.to_string()))?;
    Root::open(&path, account)
        .map_err(|error| ConnectError::new(Code::NotFound, format!("root {}: {error}", path.display())))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(error.to_string()))
}

/// Serves `Read`.
pub(super) async fn read(daemon: &Arc<Daemon>, request: Request) -> Response {
    match read_files(daemon, request).await {
        Ok(bytes) => {
            let mut response = reply::with_body(StatusCode::OK, full(bytes));
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => unary_error(&error),
    }
}

async fn read_files(daemon: &Arc<Daemon>, request: Request) -> Result<Vec<u8>, ConnectError> {
    let headers = request.headers().clone();
    let (body, _held) = read_body(&daemon.buffers, request.into_body(), MAX_QUESTION).await?;
    let question: ReadRequest = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let root = root(daemon, &headers, &question.root)?;
    let mut held = daemon.buffers.reserve();
    held.grow(MAX_READ_BYTES as usize)?;
    blocking(move || {
        let mut answer = Vec::new();
        let mut room = MAX_READ_BYTES;
        for path in &question.paths {
            let (present, bytes) = read_file(&root, path, question.most.min(room));
            room -= bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let head = ReadHead { present, size: bytes.as_ref().map(|bytes| bytes.len() as u64) };
            // A struct of two plain fields always has a JSON form.
            answer.extend_from_slice(&serde_json::to_vec(&head).unwrap_or_default());
            answer.push(b'\n');
            answer.extend_from_slice(&bytes.unwrap_or_default());
        }
        answer
    })
    .await
}

/// Whether there is a regular file, and its bytes where there are at most so many. Read whole before its length is told,
/// so that one that grows meanwhile cannot break the answer.
fn read_file(root: &Root, path: &str, most: u64) -> (bool, Option<Vec<u8>>) {
    let Ok(Some(place)) = root.find(path, false) else { return (false, None) };
    if !place.kind().is_ok_and(|kind| kind == Some(FileType::RegularFile)) {
        return (false, None);
    }
    if most == 0 {
        return (true, None);
    }
    let Ok(file) = place.read() else { return (true, None) };
    let mut bytes = Vec::new();
    match file.take(most + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 <= most => (true, Some(bytes)),
        _ => (true, None),
    }
}

/// Serves `Write`.
pub(super) async fn write(daemon: &Arc<Daemon>, request: Request) -> Response {
    match write_entries(daemon, request).await {
        Ok(failures) => reply::json(StatusCode::OK, &WriteResponse { failures }),
        Err(error) => unary_error(&error),
    }
}

async fn write_entries(daemon: &Arc<Daemon>, request: Request) -> Result<Vec<Option<String>>, ConnectError> {
    let path = query(request.uri(), "root").unwrap_or_default();
    let root = Arc::new(root(daemon, request.headers(), &path)?);
    let mut body = Incoming { body: BodyDataStream::new(request.into_body()), rest: BytesMut::new() };
    let mut failures = Vec::new();
    while let Some(head) = body.head().await? {
        let done = match head.kind {
            WriteKind::File => write_file(&root, &head, &mut body).await?,
            WriteKind::Link | WriteKind::Mode => {
                let (root, target) = (Arc::clone(&root), head.target.clone().unwrap_or_default());
                let (path, mode, link) = (head.path.clone(), head.mode, head.kind == WriteKind::Link);
                blocking(move || {
                    let place = root.place(&path)?;
                    if link { place.link(&target) } else { place.set_mode(mode) }
                })
                .await?
            }
        };
        failures.push(done.err());
    }
    Ok(failures)
}

/// Writes one file; what it cannot write it reads all the same, because the next entry comes behind it.
async fn write_file(
    root: &Arc<Root>,
    head: &WriteHead,
    body: &mut Incoming,
) -> Result<Result<(), String>, ConnectError> {
    let (place, path, mode) = (Arc::clone(root), head.path.clone(), head.mode);
    // A small one is made, written and put in its place in one go.
    if head.size <= CHUNK as u64 {
        let bytes = body.take(head.size as usize).await?;
        return blocking(move || {
            let mut file = place.place(&path)?.begin()?;
            let written = file.file.write_all(&bytes).map_err(told);
            file.finish(mode, written)
        })
        .await;
    }
    let mut open: Result<Unfinished, String> = blocking(move || place.place(&path)?.begin()).await?;
    let mut left = head.size;
    while left > 0 {
        let bytes = body.take(left.min(CHUNK as u64) as usize).await;
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                // Cut off in the middle: what was written so far is no file.
                if let Ok(file) = open {
                    blocking(move || file.finish(mode, Err("cut off".to_owned()))).await?.ok();
                }
                return Err(error);
            }
        };
        left -= bytes.len() as u64;
        open = match open {
            Ok(mut file) => {
                blocking(move || match file.file.write_all(&bytes) {
                    Ok(()) => Ok(file),
                    Err(error) => {
                        let reason = told(error);
                        Err(file.finish(mode, Err(reason.clone())).err().unwrap_or(reason))
                    }
                })
                .await?
            }
            failed => failed,
        };
    }
    match open {
        Ok(file) => blocking(move || file.finish(mode, Ok(()))).await,
        Err(reason) => Ok(Err(reason)),
    }
}

/// A body that is read by lines and by counted bytes.
struct Incoming {
    body: BodyDataStream<RequestBody>,
    rest: BytesMut,
}

impl Incoming {
    async fn more(&mut self) -> Result<bool, ConnectError> {
        match self.body.next().await {
            Some(Ok(bytes)) => {
                self.rest.extend_from_slice(&bytes);
                Ok(true)
            }
            Some(Err(error)) => Err(ConnectError::new(Code::Canceled, error.to_string())),
            None => Ok(false),
        }
    }

    /// The next entry's head; none at the end.
    async fn head(&mut self) -> Result<Option<WriteHead>, ConnectError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|error| invalid(error.to_string()));
            }
            if self.rest.len() > MAX_HEAD_BYTES {
                return Err(invalid("the head of an entry is too long"));
            }
            if !self.more().await? {
                return if self.rest.is_empty() { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// The next so many bytes.
    async fn take(&mut self, count: usize) -> Result<Bytes, ConnectError> {
        while self.rest.len() < count {
            if !self.more().await? {
                return Err(cut());
            }
        }
        Ok(self.rest.split_to(count).freeze())
    }
}

fn cut() -> ConnectError {
    invalid("the body ends in the middle of an entry")
}
