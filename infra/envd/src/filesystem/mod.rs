//! `filesystem.Filesystem`: stat, directories, moving, removing, watching.

pub mod entry;
pub mod inotify;
pub mod polling;
pub mod relocate;
pub mod watching;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use pvm_e2b_wire::connect::{Code, ConnectError, TOO_MANY_ENTRIES};
use pvm_e2b_wire::filesystem::{
    CreateWatcherRequest, Empty, EntryInfo, EntryResponse, ListDirRequest, ListDirResponse, MoveRequest,
    PathRequest, WatcherEvents, WatcherRef,
};

use crate::accounts::{Account, Names};
use crate::daemon::Daemon;
use crate::http::rpc::{self, internal, invalid};
use crate::http::{Request, Response, reply};
use crate::paths;

/// Most entries of one listing; more would not fit into one message.
const MAX_ENTRIES: usize = 200_000;

/// procfs and sysfs, by their magic numbers.
const KERNEL_FILE_SYSTEMS: [i64; 2] = [0x9fa0, 0x6265_6572];

/// Serves a method of the service.
pub async fn serve(daemon: &Arc<Daemon>, method: &str, request: Request) -> Response {
    let headers = request.headers().clone();
    let (caller, buffers) = (Caller { daemon, headers }, &daemon.buffers);
    match method {
        "Stat" => {
            rpc::unary(buffers, request, async |question: PathRequest| {
                let (path, _) = caller.resolve(&question.path)?;
                blocking(move || stat(&path)).await
            })
            .await
        }
        "MakeDir" => {
            rpc::unary(buffers, request, async |question: PathRequest| {
                let (path, account) = caller.resolve(&question.path)?;
                blocking(move || make_dir(&path, &account)).await
            })
            .await
        }
        "Move" => {
            rpc::unary(buffers, request, async |question: MoveRequest| {
                let (source, _) = caller.resolve(&question.source)?;
                let (destination, account) = caller.resolve(&question.destination)?;
                blocking(move || move_entry(&source, &destination, &account)).await
            })
            .await
        }
        "ListDir" => {
            rpc::unary(buffers, request, async |question: ListDirRequest| {
                let (path, _) = caller.resolve(&question.path)?;
                blocking(move || list_dir(&path, question.depth.max(1))).await
            })
            .await
        }
        "Remove" => {
            rpc::unary(buffers, request, async |question: PathRequest| {
                let (path, _) = caller.resolve(&question.path)?;
                blocking(move || remove(&path)).await
            })
            .await
        }
        "WatchDir" => watching::serve(daemon, request).await,
        "CreateWatcher" => {
            rpc::unary(buffers, request, async |question: CreateWatcherRequest| {
                let watch = watching::open(daemon, &caller.headers, question).await?;
                let watcher_id = daemon.watchers.add(watch)?;
                Ok(WatcherRef { watcher_id })
            })
            .await
        }
        "GetWatcherEvents" => {
            rpc::unary(buffers, request, async |question: WatcherRef| {
                Ok(WatcherEvents { events: daemon.watchers.take_events(&question.watcher_id)? })
            })
            .await
        }
        "RemoveWatcher" => {
            rpc::unary(buffers, request, async |question: WatcherRef| {
                daemon.watchers.remove(&question.watcher_id).map(|()| Empty {})
            })
            .await
        }
        _ => reply::error_reply(StatusCode::NOT_FOUND, "filesystem.Filesystem has no such method"),
    }
}

struct Caller<'a> {
    daemon: &'a Daemon,
    headers: HeaderMap,
}

impl Caller<'_> {
    fn resolve(&self, path: &str) -> Result<(PathBuf, Account), ConnectError> {
        let account = self.daemon.caller(&self.headers)?;
        let path = paths::resolve(path, &account, self.daemon.default_workdir().as_deref())
            .map_err(|error| invalid(error.to_string()))?;
        Ok((path, account))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConnectError> + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(internal(error.to_string())))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn system(action: &str, error: &io::Error) -> ConnectError {
    let code = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Code::ResourceExhausted,
        Some(libc::ENAMETOOLONG | libc::EINVAL) => Code::InvalidArgument,
        _ => Code::Internal,
    };
    ConnectError::new(code, format!("{action}: {error}"))
}

fn stat(path: &Path) -> Result<EntryResponse, ConnectError> {
    match entry::describe(path, &Names::load()) {
        Ok(entry) => Ok(EntryResponse { entry }),
        Err(error) if is_absent(&error) => {
            Err(ConnectError::new(Code::NotFound, format!("file not found: {}: {error}", path.display())))
        }
        Err(error) => Err(system("error getting file info", &error)),
    }
}

fn make_dir(path: &Path, account: &Account) -> Result<EntryResponse, ConnectError> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let message = format!("directory already exists: {}", path.display());
            return Err(ConnectError::new(Code::AlreadyExists, message));
        }
        Ok(_) => {
            let message = format!("path already exists but it is not a directory: {}", path.display());
            return Err(invalid(message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(invalid(format!("a parent of {} is a file", path.display())));
        }
        Err(error) => return Err(system("error getting file info", &error)),
    }
    paths::ensure_directories(path, account).map_err(|error| system("error making the directory", &error))?;
    stat(path)
}

fn move_entry(source: &Path, destination: &Path, account: &Account) -> Result<EntryResponse, ConnectError> {
    if let Err(error) = source.symlink_metadata() {
        return Err(if is_absent(&error) {
            ConnectError::new(Code::NotFound, format!("source file not found: {}: {error}", source.display()))
        } else {
            system("error getting file info", &error)
        });
    }
    if let Some(parent) = destination.parent() {
        paths::ensure_directories(parent, account)
            .map_err(|error| system("error making the destination's parents", &error))?;
    }
    relocate::relocate(source, destination).map_err(|error| system("error renaming", &error))?;
    stat(destination)
}

fn remove(path: &Path) -> Result<Empty, ConnectError> {
    if path.parent().is_none() {
        return Err(invalid("the root directory cannot be removed"));
    }
    relocate::remove(path).map_err(|error| system("error removing file or directory", &error))?;
    Ok(Empty {})
}

fn list_dir(path: &Path, depth: u32) -> Result<ListDirResponse, ConnectError> {
    let real = path.canonicalize().map_err(|error| match error.raw_os_error() {
        _ if is_absent(&error) => {
            ConnectError::new(Code::NotFound, format!("path not found: {}: {error}", path.display()))
        }
        Some(libc::ELOOP) => {
            let message = format!("cyclic symlink or chain of too many links at '{}'", path.display());
            ConnectError::new(Code::FailedPrecondition, message)
        }
        _ => system("error resolving symlink", &error),
    })?;
    if !real.is_dir() {
        return Err(invalid(format!("path is not a directory: {}", path.display())));
    }
    let children = children_of(&real).map_err(|error| unreadable(path, &error))?;
    let mut listing = Listing { names: Names::load(), entries: Vec::new() };
    let device = real.metadata().map_err(|error| unreadable(path, &error))?.dev();
    listing.add(path, &real, device, children, depth)?;
    Ok(ListDirResponse { entries: listing.entries })
}

/// A listing as far as it has come.
struct Listing {
    names: Names,
    entries: Vec<EntryInfo>,
}

impl Listing {
    /// Lists `children` of a directory, each directory followed by what is in it. `shown` is the path by which the
    /// client knows the directory, `real` the one to read, and `device` where it is.
    fn add(
        &mut self,
        shown: &Path,
        real: &Path,
        device: u64,
        children: Vec<OsString>,
        depth: u32,
    ) -> Result<(), ConnectError> {
        for name in children {
            if self.entries.len() >= MAX_ENTRIES {
                let message = format!("more than {MAX_ENTRIES} entries; {TOO_MANY_ENTRIES}");
                return Err(ConnectError::new(Code::ResourceExhausted, message));
            }
            let child = real.join(&name);
            let metadata = match child.symlink_metadata() {
                Ok(metadata) => metadata,
                Err(error) if has_gone(&error) => continue,
                Err(error) => return Err(unreadable(shown, &error)),
            };
            let shown = shown.join(&name);
            let mut entry = entry::from_metadata(&child, &metadata, &self.names);
            entry.path = shown.to_string_lossy().into_owned();
            self.entries.push(entry);
            let enters = metadata.dev() == device || !is_of_the_kernel(&child);
            if metadata.is_dir() && depth > 1 && enters {
                // One that went away meanwhile, or that lets nobody in, has nothing to show; the rest has.
                let inside = children_of(&child).unwrap_or_default();
                self.add(&shown, &child, metadata.dev(), inside, depth - 1)?;
            }
        }
        Ok(())
    }
}

fn unreadable(shown: &Path, error: &io::Error) -> ConnectError {
    system(&format!("error reading directory {}", shown.display()), error)
}

/// Names in a directory, in order.
fn children_of(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for child in std::fs::read_dir(directory)? {
        names.push(child?.file_name());
    }
    names.sort();
    Ok(names)
}

/// Whether something was removed since it was listed; a process that ended takes its directory in `/proc` with it.
fn has_gone(error: &io::Error) -> bool {
    is_absent(error) || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether a directory shows the kernel's own tables: large, never at rest, and not what a listing of a place above is
/// about. Asked for by their own path they are listed like any other.
fn is_of_the_kernel(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|facts| KERNEL_FILE_SYSTEMS.contains(&facts.f_type))
}
