//! `POST /files/compose`: joins files into one, without moving their bytes through this process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use pvm_e2b_wire::envd_http::{ComposeRequest, UploadedFile};
use rustix::fs::{Gid, Uid};

use super::{FileError, blocking, user};
use crate::accounts::Account;
use crate::daemon::Daemon;
use crate::http::request::read_body;
use crate::http::{Request, Response, reply};
use crate::paths;

/// Bytes of a request: a list of paths.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// Serves the request.
pub async fn serve(daemon: &Arc<Daemon>, request: Request) -> Response {
    match compose(daemon, request).await {
        Ok(file) => reply::json(StatusCode::OK, &file),
        Err(error) => error.reply(),
    }
}

async fn compose(daemon: &Arc<Daemon>, request: Request) -> Result<UploadedFile, FileError> {
    let (body, _reserved) = read_body(&daemon.buffers, request.into_body(), MAX_BODY)
        .await
        .map_err(|error| FileError::bad(error.to_string()))?;
    let question: ComposeRequest = serde_json::from_slice(&body)
        .map_err(|error| FileError::bad(format!("invalid request body: {error}")))?;
    if question.source_paths.is_empty() {
        return Err(FileError::bad("source_paths must not be empty"));
    }
    if question.destination.is_empty() {
        return Err(FileError::bad("destination is required"));
    }
    let account = user(daemon, question.username)?;
    let workdir = daemon.default_workdir();
    let resolve = |path: &str| {
        paths::resolve(path, &account, workdir.as_deref())
            .map_err(|error| FileError::bad(format!("error resolving path '{path}': {error}")))
    };
    let destination = resolve(&question.destination)?;
    let sources = question.source_paths.iter().map(|path| resolve(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(same) = sources.iter().position(|source| *source == destination) {
        let path = &question.source_paths[same];
        return Err(FileError::bad(format!("source path '{path}' cannot be the same as destination")));
    }
    blocking(move || join(&sources, &destination, &account)).await
}

/// Joins beside the destination and renames, so that a failure leaves what was there.
fn join(sources: &[PathBuf], destination: &Path, account: &Account) -> Result<UploadedFile, FileError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);

    let opened = sources.iter().map(|source| open_source(source)).collect::<Result<Vec<_>, _>>()?;
    let parent = destination.parent().ok_or_else(|| FileError::bad("destination is a directory"))?;
    if destination.is_dir() {
        return Err(FileError::bad(format!("destination is a directory: {}", destination.display())));
    }
    paths::ensure_directories(parent, account)
        .map_err(|error| FileError::system("error ensuring directories", &error))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = parent.join(format!(".{}.compose-{number}.tmp", paths::name_of(destination)));
    let joined =
        write_joined(opened, &temporary, account).and_then(|()| std::fs::rename(&temporary, destination));
    if let Err(error) = joined {
        std::fs::remove_file(&temporary).ok();
        return Err(FileError::system("error composing files", &error));
    }
    for source in sources {
        // The result is there; what cannot be removed is only left over.
        std::fs::remove_file(source).ok();
    }
    Ok(UploadedFile {
        path: destination.to_string_lossy().into_owned(),
        name: paths::name_of(destination),
        kind: "file".into(),
        ..UploadedFile::default()
    })
}

fn open_source(path: &Path) -> Result<File, FileError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            FileError::new(StatusCode::NOT_FOUND, format!("source file not found: {}", path.display()))
        }
        _ => FileError::system(&format!("error opening source file {}", path.display()), &error),
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        Ok(file)
    } else {
        Err(FileError::bad(format!("source path is not a regular file: {}", path.display())))
    }
}

fn write_joined(sources: Vec<File>, temporary: &Path, account: &Account) -> io::Result<()> {
    let mut joined = OpenOptions::new().write(true).create_new(true).mode(0o666).open(temporary)?;
    rustix::fs::fchown(&joined, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
    for mut source in sources {
        // The kernel copies from file to file.
        io::copy(&mut source, &mut joined)?;
    }
    Ok(())
}
