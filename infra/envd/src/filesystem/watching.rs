//! `WatchDir`, and what it shares with watchers that are polled.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::Stream;
use hyper::HeaderMap;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::filesystem::{FilesystemEvent, WatchDirRequest, WatchDirResponse};
use tokio::time::{Duration, interval};

use super::entry;
use super::inotify::{Change, Watch};
use crate::accounts::Names;
use crate::daemon::Daemon;
use crate::http::rpc::{self, internal, invalid};
use crate::http::{Request, Response};
use crate::paths;

/// File systems whose changes may be made on other machines, where nobody tells this kernel: NFS, CIFS, SMB and
/// FUSE, by their magic numbers.
const NETWORK_FILE_SYSTEMS: [i64; 5] = [0x6969, 0xff53_4d42, 0x517b, 0xfe53_4d42, 0x6573_5546];

/// A watch, and whether its events carry entries.
#[derive(Debug)]
pub struct Watching {
    watch: Watch,
    include_entry: bool,
}

impl Watching {
    /// The next event.
    ///
    /// # Errors
    /// When events were lost, or the watch broke.
    pub async fn next(&mut self) -> Result<FilesystemEvent, ConnectError> {
        let change = self.watch.next().await.map_err(|error| internal(format!("watcher error: {error}")))?;
        Ok(self.event(&change))
    }

    fn event(&self, change: &Change) -> FilesystemEvent {
        let entry = self.include_entry.then(|| {
            // What is gone has no entry any more.
            let path = self.watch.root().join(&change.path);
            entry::describe(&path, &Names::load()).ok()
        });
        FilesystemEvent {
            name: change.path.to_string_lossy().into_owned(),
            event_type: change.kind,
            entry: entry.flatten(),
        }
    }
}

/// Starts watching what the request names.
///
/// # Errors
/// [`Code::NotFound`], or [`Code::InvalidArgument`] for a file or a network mount.
pub async fn open(
    daemon: &Daemon,
    headers: &HeaderMap,
    question: WatchDirRequest,
) -> Result<Watching, ConnectError> {
    let account = daemon.caller(headers)?;
    let path = paths::resolve(&question.path, &account, daemon.default_workdir().as_deref())
        .map_err(|error| invalid(error.to_string()))?;
    // A large tree takes its time.
    super::blocking(move || open_at(&path, &question)).await
}

fn open_at(path: &Path, question: &WatchDirRequest) -> Result<Watching, ConnectError> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(invalid(format!("path {} not a directory", path.display()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(ConnectError::new(Code::NotFound, format!("path {} not found", path.display())));
        }
        Err(error) => return Err(internal(format!("error statting path {}: {error}", path.display()))),
    }
    if !question.allow_network_mounts {
        let file_system = rustix::fs::statfs(path)
            .map_err(|error| internal(format!("error checking mount status: {error}")))?;
        if NETWORK_FILE_SYSTEMS.contains(&file_system.f_type) {
            return Err(invalid(format!("cannot watch path on network filesystem: {}", path.display())));
        }
    }
    let watch = Watch::open(path, question.recursive).map_err(|error| {
        let exhausted = error.kind() == io::ErrorKind::QuotaExceeded
            || matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EMFILE | libc::ENOMEM));
        let code = if exhausted { Code::ResourceExhausted } else { Code::Internal };
        ConnectError::new(code, format!("error adding path {} to watcher: {error}", path.display()))
    })?;
    Ok(Watching { watch, include_entry: question.include_entry })
}

/// Serves `WatchDir`.
pub async fn serve(daemon: &Arc<Daemon>, request: Request) -> Response {
    let headers = request.headers().clone();
    rpc::server_stream(&daemon.buffers, request, async |question: WatchDirRequest| {
        let watching = open(daemon, &headers, question).await?;
        Ok(events(watching, rpc::keepalive(&headers)))
    })
    .await
}

fn events(
    mut watching: Watching,
    silence: Duration,
) -> impl Stream<Item = Result<WatchDirResponse, ConnectError>> {
    async_stream::stream! {
        yield Ok(WatchDirResponse::started());
        let mut idle = interval(silence);
        idle.reset();
        loop {
            tokio::select! {
                biased;
                event = watching.next() => match event {
                    Ok(event) => {
                        yield Ok(WatchDirResponse::event(event));
                        idle.reset();
                    }
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                },
                _ = idle.tick() => yield Ok(WatchDirResponse::keepalive()),
            }
        }
    }
}
