//! `POST /files`: a raw body or a form, written to disk as it comes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyDataStream;
use hyper::StatusCode;
use hyper::http::request::Parts;
use pvm_e2b_wire::envd_http::UploadedFile;
use pvm_e2b_wire::signature::Operation;
use rustix::fs::{Gid, Uid};

use super::form::receive_form;
use super::inflate::inflate;
use super::{FileError, authorize, blocking, metadata, user};
use crate::accounts::Account;
use crate::daemon::Daemon;
use crate::http::request::{header, media_type, query};
use crate::http::{Request, Response, reply};
use crate::paths;

/// Bytes written at once. While they are being written the next are collected.
const BATCH: usize = 512 * 1024;
/// Bytes under which a piece is put together with its neighbour.
const SMALL_PIECE: usize = 4 * 1024;

/// A body as it comes in.
pub type Pieces = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Serves the request.
pub async fn serve(daemon: &Arc<Daemon>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let result = match Upload::check(daemon, &head) {
        Ok(upload) => {
            upload.take(BodyDataStream::new(body).map(|piece| piece.map_err(io::Error::other))).await
        }
        Err(error) => Err(error),
    };
    answer(&result)
}

/// The answer to an upload.
pub(super) fn answer(result: &Result<Vec<UploadedFile>, FileError>) -> Response {
    match result {
        Ok(files) => reply::json(StatusCode::OK, files),
        Err(error) => error.reply(),
    }
}

/// Whose files, with what, and where paths count from.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) account: Account,
    workdir: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Target {
    fn resolve(&self, path: &str) -> Result<PathBuf, FileError> {
        paths::resolve(path, &self.account, self.workdir.as_deref())
            .map_err(|error| FileError::bad(format!("error resolving path: {error}")))
    }

    /// What is told of a file that was written.
    pub(super) fn uploaded(&self, path: &Path) -> UploadedFile {
        UploadedFile {
            name: paths::name_of(path),
            path: path.to_string_lossy().into_owned(),
            kind: "file".into(),
            metadata: self.metadata.clone(),
        }
    }
}

/// How a body carries files.
#[derive(Debug)]
enum Form {
    /// It is one file, for this path.
    Whole(PathBuf),
    /// It is a form with this boundary; a path in the query is for its only file.
    Parts { boundary: String, path: Option<String> },
}

/// An upload whose head was found good.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) target: Target,
    form: Form,
    is_compressed: bool,
}

impl Upload {
    /// Checks all that the head tells.
    pub(super) fn check(daemon: &Daemon, head: &Parts) -> Result<Self, FileError> {
        authorize(daemon, &head.headers, &head.uri, Operation::Write)?;
        let target = Target {
            account: user(daemon, query(&head.uri, "username"))?,
            workdir: daemon.default_workdir(),
            metadata: metadata::from_headers(&head.headers)?,
        };
        let path = query(&head.uri, "path");
        let encoding =
            header(&head.headers, "content-encoding").unwrap_or("identity").trim().to_ascii_lowercase();
        let is_compressed = match encoding.as_str() {
            "" | "identity" => false,
            "gzip" => true,
            other => {
                let message = format!("unsupported Content-Encoding: {other}, supported: gzip");
                return Err(FileError::bad(message));
            }
        };
        let form = match media_type(&head.headers).as_str() {
            "application/octet-stream" => {
                let missing = || FileError::bad("path query parameter is required for raw body upload");
                Form::Whole(target.resolve(&path.ok_or_else(missing)?)?)
            }
            form if form.starts_with("multipart/") => {
                let content_type = header(&head.headers, "content-type").unwrap_or_default();
                let boundary = multer::parse_boundary(content_type)
                    .map_err(|error| FileError::bad(format!("error parsing multipart form: {error}")))?;
                Form::Parts { boundary, path }
            }
            other => {
                return Err(FileError::bad(format!(
                    "unsupported content type: '{other}', expected multipart/form-data or application/octet-stream"
                )));
            }
        };
        Ok(Self { target, form, is_compressed })
    }

    /// Where the body goes to as it is, when it is one file and not compressed.
    pub(super) fn plain_path(&self) -> Option<&Path> {
        match &self.form {
            Form::Whole(path) if !self.is_compressed => Some(path),
            Form::Whole(_) | Form::Parts { .. } => None,
        }
    }

    /// Writes the files of a body.
    pub(super) async fn take(
        self,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Vec<UploadedFile>, FileError> {
        let body: Pieces =
            if self.is_compressed { Box::pin(inflate(Box::pin(body))) } else { Box::pin(body) };
        let target = self.target;
        match self.form {
            Form::Whole(path) => Ok(vec![write(body, path, &target).await?]),
            Form::Parts { boundary, path } => {
                let resolve = |name: &str| target.resolve(name);
                let write = |pieces, path| {
                    let target = target.clone();
                    async move { write(pieces, path, &target).await }
                };
                receive_form(body, boundary, path.as_deref(), resolve, write).await
            }
        }
    }
}

/// Writes one file. A small one is written in one go, so that watchers see one write.
async fn write(mut body: Pieces, path: PathBuf, target: &Target) -> Result<UploadedFile, FileError> {
    let (mut batch, mut ended) = collect(&mut body).await?;
    let mut file: Option<File> = None;
    loop {
        let step = {
            let (path, target) = (path.clone(), target.clone());
            blocking(move || {
                let mut file = match file {
                    Some(file) => file,
                    None => open(&path, &target.account)?,
                };
                batch.write(&mut file).map_err(|error| FileError::system("error writing file", &error))?;
                if ended {
                    metadata::replace(&file, &target.metadata)
                        .map_err(|error| FileError::system("error storing metadata", &error))?;
                }
                Ok(file)
            })
        };
        if ended {
            step.await?;
            break;
        }
        // One batch is written while the next one comes in.
        let (written, next) = futures::join!(step, collect(&mut body));
        file = Some(written?);
        (batch, ended) = next?;
    }
    Ok(target.uploaded(&path))
}

/// Pieces of a file as they came, written without being put together first.
#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        match self.pieces.last_mut() {
            // A flood of tiny pieces must not become as many system calls, or take a page of memory each.
            Some(last) if piece.len() < SMALL_PIECE && last.len() < SMALL_PIECE => {
                *last = [last.as_ref(), piece.as_ref()].concat().into();
            }
            _ => self.pieces.push(piece),
        }
    }

    fn write(self, file: &mut File) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Collects the next batch, and whether it is the last.
async fn collect(body: &mut Pieces) -> Result<(Batch, bool), FileError> {
    let mut batch = Batch::default();
    while batch.bytes < BATCH {
        match body.next().await {
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => batch.add(piece),
            Some(Err(error)) => {
                return Err(FileError::bad(format!("error reading the request body: {error}")));
            }
            None => return Ok((batch, true)),
        }
    }
    Ok((batch, false))
}

/// Opens the file for writing, empty and the user's, with its parents.
///
/// The order is part of the protocol, since watchers see it: an existing file changes owner before it is
/// emptied, a new one right after it was made.
pub(super) fn open(path: &Path, account: &Account) -> Result<File, FileError> {
    if let Some(parent) = path.parent() {
        paths::ensure_directories(parent, account).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => FileError::bad(error.to_string()),
            _ => FileError::system("error ensuring directories", &error),
        })?;
    }
    let owned = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            return Err(FileError::bad(format!("path is a directory: {}", path.display())));
        }
        Ok(metadata) if !metadata.is_file() => {
            return Err(FileError::bad(format!("path is not a regular file: {}", path.display())));
        }
        Ok(_) => {
            chown(path, Some(account.uid), Some(account.gid))
                .map_err(|error| FileError::system("error changing file ownership", &error))?;
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(FileError::system("error getting file info", &error)),
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        // Somebody may have put a pipe there meanwhile, which must not make us wait.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| FileError::system("error opening file", &error))?;
    if !owned {
        rustix::fs::fchown(&file, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))
            .map_err(|error| FileError::system("error changing file ownership", &error.into()))?;
    }
    Ok(file)
}
