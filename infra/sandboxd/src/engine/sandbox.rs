//! One sandbox in memory.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pvm_e2b_wire::control::SandboxMetric;
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::EngineError;
use super::expiry::Retry;
use crate::egress::{Gate, Policy};
use crate::envd::Envd;
use crate::isolation::process;
use crate::store::{Phase, Record, SandboxFolder, append_json, append_line};

/// A connection to a sandbox's port, for as long as it is open.
#[derive(Debug)]
pub(crate) struct OpenPipe(Arc<Sandbox>);

impl Drop for OpenPipe {
    fn drop(&mut self) {
        self.0.open_pipes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A sandbox's record, and its processes while it has any.
#[derive(Debug)]
pub(crate) struct Sandbox {
    id: String,
    pub(crate) folder: SandboxFolder,
    record: Mutex<Record>,
    runtime: Mutex<Option<Arc<Runtime>>>,
    /// Held while the sandbox goes from one state to another, so that these happen one after the other.
    pub(super) transition: tokio::sync::Mutex<()>,
    /// Set while a snapshot or fork is made of it.
    pub(super) snapshotting: AtomicBool,
    /// When a failed pause or kill at the end of its time is tried again.
    pub(super) expiry: Retry,
    /// Held while a line is written to its log.
    log: Mutex<()>,
    /// Unix milliseconds of the last request to one of its ports; 0 before the first.
    last_traffic_ms: AtomicU64,
    /// Connections to its ports that outlive their request.
    open_pipes: AtomicUsize,
    pub(super) metrics: Mutex<VecDeque<SandboxMetric>>,
    pub(crate) quota: super::quota::QuotaState,
    /// Its rules and connections at the way out.
    pub(crate) gate: Arc<Gate>,
}

/// PID 1 of a sandbox, from one cold start to its end.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: AsyncFd<OwnedFd>,
    /// Cancelled when the process has ended; stops what serves the sandbox.
    pub(super) gone: CancellationToken,
    /// Set before the server itself ends the process, so that the watcher does not take it for an accident.
    pub(super) expected_end: AtomicBool,
}

impl Process {
    #[expect(unsafe_code, reason = "registering a descriptor with the runtime is unsafe by its interface")]
    pub(super) fn new(pidfd: OwnedFd) -> std::io::Result<Arc<Self>> {
        // SAFETY: an `OwnedFd` always names the same descriptor and closes it only when dropped, after `AsyncFd`
        // has taken it out of the runtime.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Arc::new(Self { pidfd, gone: CancellationToken::new(), expected_end: AtomicBool::new(false) }))
    }

    /// Waits until the process has ended, and with it all others of the sandbox.
    pub(super) async fn ended(&self) {
        // Cannot fail for a pid descriptor; treating a failure as the end lets the caller look again.
        self.pidfd.readable().await.ok();
        process::reap(self.pidfd.get_ref());
    }

    /// Ends all processes at once.
    pub(super) fn kill(&self) -> std::io::Result<()> {
        self.expected_end.store(true, Ordering::SeqCst);
        process::signal(self.pidfd.get_ref(), Signal::KILL)
    }
}

/// The processes of a sandbox and the connections to them. Replaced when a frozen sandbox goes on, since freezing
/// breaks the connections off.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(super) process: Arc<Process>,
    pub(crate) envd: Envd,
    /// Cancelled when clients' connections must break off: the sandbox ends or stands still.
    pub(crate) streams: CancellationToken,
}

impl Runtime {
    pub(super) fn new(process: Arc<Process>, folder: &SandboxFolder) -> std::io::Result<Arc<Self>> {
        let streams = process.gone.child_token();
        let envd = Envd::new(&folder.run(), &streams)?;
        Ok(Arc::new(Self { process, envd, streams }))
    }
}

impl Sandbox {
    pub(super) fn new(record: Record, folder: SandboxFolder, runtime: Option<Arc<Runtime>>) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            folder,
            last_traffic_ms: AtomicU64::new(0),
            open_pipes: AtomicUsize::new(0),
            gate: Gate::new(Policy::of(&record)),
            record: Mutex::new(record),
            runtime: Mutex::new(runtime),
            transition: tokio::sync::Mutex::default(),
            snapshotting: AtomicBool::new(false),
            expiry: Retry::default(),
            log: Mutex::default(),
            metrics: Mutex::default(),
            quota: super::quota::QuotaState::default(),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the record.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.lock())
    }

    /// A copy of the record.
    pub(crate) fn snapshot(&self) -> Record {
        self.lock().clone()
    }

    /// Changes the record and stores it; a change that cannot be stored does not happen.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Record) -> T) -> std::io::Result<T> {
        self.replace(|record| Ok(change(record)), |error| error)
    }

    /// Changes what a caller asked to be changed; `step` says what is being done. A refused change does not happen, and
    /// of a sandbox that is being removed nothing is changed any more: it may have no folder.
    pub(super) fn change<T>(
        &self,
        step: &'static str,
        change: impl FnOnce(&mut Record) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let checked = |record: &mut Record| match record.phase {
            Phase::Running | Phase::Paused(_) => change(record),
            Phase::Creating | Phase::Killing => Err(EngineError::NotFound(record.id.clone())),
        };
        self.replace(checked, EngineError::at(step))
    }

    /// Stores a changed copy of the record, then takes it for the record. Nobody else changes it meanwhile.
    fn replace<T, E>(
        &self,
        change: impl FnOnce(&mut Record) -> Result<T, E>,
        failed: impl FnOnce(std::io::Error) -> E,
    ) -> Result<T, E> {
        let mut record = self.lock();
        let mut changed = record.clone();
        let result = change(&mut changed)?;
        append_json(&self.folder.record(), &changed).map_err(failed)?;
        *record = changed;
        Ok(result)
    }

    /// The processes, running or frozen.
    pub(crate) fn any_runtime(&self) -> Option<Arc<Runtime>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The processes, if they can answer.
    pub(crate) fn running(&self) -> Option<Arc<Runtime>> {
        if self.with(|record| record.phase == Phase::Running) { self.any_runtime() } else { None }
    }

    pub(super) fn set_runtime(&self, runtime: Option<Arc<Runtime>>) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = runtime;
    }

    /// Notes that somebody uses one of its ports.
    pub(crate) fn touch(&self, now_ms: u64) {
        self.last_traffic_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Notes a connection to one of its ports that outlives its request, such as a WebSocket.
    pub(crate) fn open_pipe(self: &Arc<Self>) -> OpenPipe {
        self.open_pipes.fetch_add(1, Ordering::Relaxed);
        OpenPipe(Arc::clone(self))
    }

    /// When one of its ports was last used since this server has known it, in Unix milliseconds: now, while a connection
    /// is open.
    pub(crate) fn last_traffic_ms(&self, now_ms: u64) -> Option<u64> {
        if self.open_pipes.load(Ordering::Relaxed) > 0 {
            self.touch(now_ms);
        }
        Some(self.last_traffic_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Writes a line to the sandbox's log. The log is for people; that it cannot be written is not worth failing
    /// for.
    pub(crate) fn note(&self, now_ms: u64, level: &str, message: &str) {
        let line = serde_json::json!({
            "timestamp": crate::clock::timestamp(now_ms),
            "message": message,
            "level": level,
            "fields": { "logger": "sandboxd" },
        });
        let _turn = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let written = append_line(&self.folder.log(), &line);
        if let Err(error) = written {
            tracing::debug!(sandbox.id = self.id, %error, "the sandbox's log could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sandbox of which nothing but its folder is there.
    fn sandbox(layout: &crate::store::Layout) -> Arc<Sandbox> {
        let record = serde_json::json!({
            "id": "iabc", "owner": "ann", "template_id": "host", "alias": null,
            "origin": { "root": "r", "user": "user" }, "phase": "running", "started_at_ms": 1, "end_at_ms": 2,
            "auto_pause": null, "auto_resume": false, "timeout_ms": 1, "metadata": {}, "env_vars": {},
            "envd_token": null, "traffic_token": null, "network": null, "allow_internet_access": null,
            "limits": crate::config::DEFAULT_LIMITS, "range": 0,
            "host_boot_id": "b", "process": null, "group": null,
        });
        let folder = layout.sandbox("iabc");
        folder.create().unwrap();
        Sandbox::new(serde_json::from_value(record).unwrap(), folder, None)
    }

    #[test]
    fn a_refused_change_does_not_happen_and_one_of_what_is_being_removed_finds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let layout = crate::store::Layout::open(folder.path()).unwrap();
        let sandbox = sandbox(&layout);
        let refused = sandbox.change("testing", |record| {
            record.end_at_ms = 5;
            Err::<(), _>(EngineError::Invalid("no".into()))
        });
        assert!(matches!(refused, Err(EngineError::Invalid(_))));
        assert_eq!(sandbox.with(|record| record.end_at_ms), 2);
        let late = |record: &mut Record| {
            record.end_at_ms = 7;
            Ok(())
        };
        sandbox.change("testing", late).unwrap();
        assert_eq!(sandbox.with(|record| record.end_at_ms), 7);
        sandbox.update(|record| record.phase = Phase::Killing).unwrap();
        layout.discard(sandbox.folder.path()).unwrap();
        assert!(matches!(sandbox.change("testing", late), Err(EngineError::NotFound(_))));
    }
}
