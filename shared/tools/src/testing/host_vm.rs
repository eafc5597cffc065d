//! A VM client whose VM is this machine's shell, with a journal in memory.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pvm_application::ports::{
    ByteStream, Chunk, Clock, ConnectVm, EntryKind, Machine, NewId, ReadFrom, RunCommands, RunReport,
    RunSpec, RunState, StartExecution, Started, VmEntry, VmError, VmFiles, VmInfo, WorkflowError,
};
use pvm_application::store::{
    Committed, Delta, Key, Listing, Page, Purge, ReadStore, Record, StoreError, Tx, WriteStore,
};
use pvm_domain::Timestamp;
use pvm_domain::event::{Event, LogId};
use pvm_domain::ids::PrefixedId;
use tokio::io::AsyncWriteExt;

#[derive(Default)]
struct Run {
    ended: Option<(RunState, Option<i32>, Option<i32>)>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    kill: Option<tokio::sync::oneshot::Sender<()>>,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct HostVm {
    runs: Arc<Mutex<HashMap<String, Arc<Mutex<Run>>>>>,
    /// How many processes were started.
    pub(crate) started: Arc<Mutex<u32>>,
}

fn report(run: &Run, from: ReadFrom) -> RunReport {
    let chunk = |bytes: &[u8], offset: u64| {
        let start = (offset as usize).min(bytes.len());
        let end = (start + from.limit as usize).min(bytes.len());
        Chunk {
            data: Bytes::copy_from_slice(&bytes[start..end]),
            offset: start as u64,
            next: end as u64,
            total: bytes.len() as u64,
            dropped: 0,
        }
    };
    let (state, exit_code, signal) = run.ended.unwrap_or((RunState::Running, None, None));
    RunReport {
        state,
        exit_code,
        signal,
        duration_ms: 5,
        stdout: chunk(&run.stdout, from.stdout),
        stderr: chunk(&run.stderr, from.stderr),
    }
}

impl HostVm {
    fn spawn(&self, spec: &RunSpec) -> Result<Arc<Mutex<Run>>, VmError> {
        *self.started.lock().unwrap() += 1;
        let (kill, killed) = tokio::sync::oneshot::channel();
        let run = Arc::new(Mutex::new(Run { kill: Some(kill), ..Run::default() }));
        let mut child = tokio::process::Command::new("bash")
            .args(["-c", &spec.command])
            .current_dir(&spec.working_dir)
            .envs(&spec.env)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| VmError::Refused(error.to_string()))?;
        let (mut stdin, input) = (child.stdin.take().unwrap(), spec.stdin.clone().unwrap_or_default());
        tokio::spawn(async move {
            // A program may end without reading its input.
            drop(stdin.write_all(input.as_bytes()).await);
        });
        for (stream, to_stdout) in [(0, true), (1, false)] {
            let run = run.clone();
            let pipe: Box<dyn tokio::io::AsyncRead + Send + Unpin> = if stream == 0 {
                Box::new(child.stdout.take().unwrap())
            } else {
                Box::new(child.stderr.take().unwrap())
            };
            tokio::spawn(pump(pipe, run, to_stdout));
        }
        let (ended, timeout) = (run.clone(), spec.timeout_secs.unwrap_or(1000));
        tokio::spawn(async move {
            let end = tokio::select! {
                status = child.wait() => {
                    use std::os::unix::process::ExitStatusExt as _;
                    let status = status.unwrap();
                    (RunState::Exited, status.code(), status.signal())
                }
                () = tokio::time::sleep(Duration::from_secs(timeout)) => (RunState::TimedOut, None, Some(9)),
                _ = killed => (RunState::Killed, None, Some(9)),
            };
            drop(child.kill().await);
            // The pipes are read to their end by then, or soon after.
            tokio::time::sleep(Duration::from_millis(30)).await;
            ended.lock().unwrap().ended = Some(end);
        });
        Ok(run)
    }
}

async fn pump(mut pipe: Box<dyn tokio::io::AsyncRead + Send + Unpin>, run: Arc<Mutex<Run>>, to_stdout: bool) {
    use tokio::io::AsyncReadExt as _;
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let mut run = run.lock().unwrap();
        let target = if to_stdout { &mut run.stdout } else { &mut run.stderr };
        target.extend_from_slice(&buffer[..count]);
    }
}

impl RunCommands for HostVm {
    async fn start_run(&self, _: &str, spec: &RunSpec, wait: Duration) -> Result<RunReport, VmError> {
        let known = self.runs.lock().unwrap().get(&spec.run_id).cloned();
        let run = if let Some(run) = known {
            run
        } else {
            let run = self.spawn(spec)?;
            self.runs.lock().unwrap().insert(spec.run_id.clone(), run.clone());
            run
        };
        let end = tokio::time::Instant::now() + wait;
        while run.lock().unwrap().ended.is_none() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let from = ReadFrom { stdout: 0, stderr: 0, limit: 1024 * 1024, wait };
        let report = report(&run.lock().unwrap(), from);
        Ok(report)
    }

    async fn read_run(&self, _: &str, run_id: &str, from: ReadFrom) -> Result<Option<RunReport>, VmError> {
        let Some(run) = self.runs.lock().unwrap().get(run_id).cloned() else { return Ok(None) };
        let end = tokio::time::Instant::now() + from.wait;
        loop {
            let now = report(&run.lock().unwrap(), from);
            let new = now.stdout.total > from.stdout || now.stderr.total > from.stderr;
            if now.state != RunState::Running || new || tokio::time::Instant::now() >= end {
                return Ok(Some(now));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn kill_run(&self, _: &str, run_id: &str) -> Result<(), VmError> {
        let run = self.runs.lock().unwrap().get(run_id).cloned();
        if let Some(kill) = run.and_then(|run| run.lock().unwrap().kill.take()) {
            // It may have ended by itself meanwhile.
            let _ = kill.send(());
        }
        Ok(())
    }
}

fn entry(path: &std::path::Path) -> Option<VmEntry> {
    let facts = std::fs::symlink_metadata(path).ok()?;
    let own = std::fs::metadata("/proc/self").ok()?.uid();
    let kind = if facts.is_dir() {
        EntryKind::Directory
    } else if facts.is_symlink() {
        EntryKind::Symlink
    } else {
        EntryKind::File
    };
    Some(VmEntry {
        path: path.to_string_lossy().into_owned(),
        name: path.file_name()?.to_string_lossy().into_owned(),
        kind,
        size: facts.len(),
        mode: facts.permissions().mode(),
        // Whoever runs the tests plays the part of `user`.
        owner: if facts.uid() == own { "user".to_owned() } else { facts.uid().to_string() },
        group: facts.gid().to_string(),
        modified_ns: i128::from(facts.mtime()) * 1_000_000_000,
        sha256: None,
        symlink_target: std::fs::read_link(path).ok().map(|to| to.to_string_lossy().into_owned()),
    })
}

impl VmFiles for HostVm {
    async fn read_file(&self, _: &str, path: &str, _: &str, most: u64) -> Result<Bytes, VmError> {
        let bytes = std::fs::read(path).map_err(|error| VmError::Refused(error.to_string()))?;
        if bytes.len() as u64 > most { Err(VmError::Refused("too long".into())) } else { Ok(bytes.into()) }
    }
    async fn read_file_stream(&self, _: &str, path: &str, _: &str) -> Result<(u64, ByteStream), VmError> {
        let bytes = std::fs::read(path).map_err(|error| VmError::Refused(error.to_string()))?;
        let size = bytes.len() as u64;
        let pieces: Vec<std::io::Result<Bytes>> =
            bytes.chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Ok((size, Box::pin(futures::stream::iter(pieces))))
    }
    async fn write_file(&self, _: &str, _: &str, _: &str, _: Bytes) -> Result<(), VmError> {
        unreachable!("the tools write through the journal")
    }
    async fn write_file_stream(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: u64,
        _: ByteStream,
    ) -> Result<(), VmError> {
        unreachable!("the tools write through the journal")
    }
    async fn stat(&self, _: &str, path: &str, _: &str) -> Result<Option<VmEntry>, VmError> {
        Ok(entry(std::path::Path::new(path)))
    }
    async fn list_dir(&self, _: &str, path: &str, _: &str, depth: u32) -> Result<Vec<VmEntry>, VmError> {
        let mut found = Vec::new();
        let mut open = vec![(std::path::PathBuf::from(path), 1)];
        while let Some((dir, level)) = open.pop() {
            for child in std::fs::read_dir(dir).map_err(|error| VmError::Refused(error.to_string()))? {
                let child = child.unwrap().path();
                if child.is_dir() && level < depth {
                    open.push((child.clone(), level + 1));
                }
                found.extend(entry(&child));
            }
        }
        Ok(found)
    }
    async fn remove(&self, _: &str, _: &str, _: &str) -> Result<(), VmError> {
        unreachable!("no tool removes files")
    }
    async fn scan_workspace(&self, _: &str) -> Result<Vec<VmEntry>, VmError> {
        unreachable!("no tool scans the workspace")
    }
}

impl ConnectVm for HostVm {
    async fn connect_vm(&self, _: &str, _: u64) -> Result<VmInfo, VmError> {
        Err(VmError::Gone)
    }
    async fn boot_id(&self, _: &str) -> Result<String, VmError> {
        Ok("boot".into())
    }
    fn port_url(&self, _: &str, port: u16) -> String {
        format!("http://localhost:{port}")
    }
}

/// A store that is away.
#[derive(Clone, Copy)]
pub(crate) struct NoStore;

fn away() -> StoreError {
    StoreError::Unavailable(anyhow::anyhow!("there is no store in this test"))
}

impl ReadStore for NoStore {
    async fn get<R: Record>(&self, _: &Key) -> Result<Option<R>, StoreError> {
        Err(away())
    }
    async fn list<R: Record>(&self, _: Listing) -> Result<Page<R>, StoreError> {
        Err(away())
    }
    async fn events(&self, _: &LogId, _: u64, _: u32) -> Result<Vec<Event>, StoreError> {
        Err(away())
    }
    async fn log_head(&self, _: &LogId) -> Result<u64, StoreError> {
        Err(away())
    }
    async fn wait_for_append(&self, _: &LogId, _: u64, _: Duration) {}
    async fn deltas(&self, _: &str) -> Result<Vec<Delta>, StoreError> {
        Err(away())
    }
}

impl WriteStore for NoStore {
    async fn commit(&self, _: Tx) -> Result<Committed, StoreError> {
        Err(away())
    }
    async fn put_delta(&self, _: &LogId, _: &Delta) -> Result<(), StoreError> {
        Err(away())
    }
    async fn purge(&self, _: Purge, _: u32) -> Result<u32, StoreError> {
        Err(away())
    }
}

/// No workflows.
#[derive(Clone, Copy)]
pub(crate) struct NoWorkflow;

impl StartExecution for NoWorkflow {
    async fn start(&self, _: Machine, _: &str, _: &serde_json::Value) -> Result<Started, WorkflowError> {
        Ok(Started::Open)
    }
}

/// The clock of this machine: the shell takes real time.
#[derive(Clone, Copy)]
pub(crate) struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl NewId for HostClock {
    fn new_id<I: PrefixedId>(&self) -> I {
        I::from_parts(1, 1)
    }
}
