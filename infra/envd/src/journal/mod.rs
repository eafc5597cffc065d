//! The run journal: commands that are never run twice.
//!
//! A run is claimed by making its folder, which only one caller can. Everybody else, and everybody later,
//! attaches to what is there: a run that this daemon looks after, or the record of one that ended or was lost.

pub mod capture;
pub mod record;
pub mod run;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hyper::StatusCode;
use jiff::Timestamp;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::journal::{
    Chunk, DEFAULT_OUTPUT_LIMIT, DEFAULT_READ_LIMIT, KillRun, MAX_OUTPUT_LIMIT, MAX_READ_LIMIT, MAX_WAIT_MS,
    ReadRun, RunReport, RunState, StartRun, is_valid_run_id,
};
use pvm_e2b_wire::process::{Empty, Signal as WireSignal};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::accounts::Account;
use crate::daemon::Daemon;
use crate::http::rpc::{self, internal, invalid};
use crate::http::{Request, Response, reply};
use crate::log;
use crate::process::spawn::{self, Plan, Streams};
use crate::process::{start_error, working_directory};
use capture::Capture;
use record::{Exit, ProcessId, Spec};
use run::Run;

/// Folder of the journal in a sandbox.
pub const DEFAULT_ROOT: &str = "/var/lib/pvm/runs";
/// How long the record of a run is kept after its end.
pub const KEPT_AFTER_END: Duration = Duration::from_hours(7 * 24);
/// How often a run is looked at that another daemon started.
const POLL: Duration = Duration::from_millis(200);
/// Bytes per stream up to which a report is made on the runtime's own thread.
const INLINE_READ: u64 = 128 * 1024;

/// Serves a method of the service.
pub async fn serve(daemon: &Arc<Daemon>, method: &str, request: Request) -> Response {
    let headers = request.headers().clone();
    let buffers = &daemon.buffers;
    match method {
        "Start" => {
            rpc::unary(buffers, request, async |question: StartRun| {
                let account = daemon.caller(&headers)?;
                start(daemon, question, &account).await
            })
            .await
        }
        "Read" => rpc::unary(buffers, request, async |question| read(daemon, question).await).await,
        "Kill" => rpc::unary(buffers, request, async |question| kill(daemon, &question)).await,
        _ => reply::error_reply(StatusCode::NOT_FOUND, "pvm.RunJournal has no such method"),
    }
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    boot_id: String,
    live: Mutex<HashMap<String, Arc<Run>>>,
}

/// A run as found.
#[derive(Debug)]
enum Found {
    /// This daemon looks after it.
    Live(Arc<Run>),
    /// Only its record is there.
    Stored(Box<Stored>),
}

/// The record of a run.
#[derive(Debug)]
struct Stored {
    folder: PathBuf,
    spec: Option<Spec>,
    process: Option<ProcessId>,
    /// `None` while another daemon's process still runs.
    exit: Option<Exit>,
}

impl Journal {
    /// Opens the journal, making its folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: PathBuf, boot_id: String) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root, boot_id, live: Mutex::default() })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Arc<Run>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runs whose process runs.
    pub fn running(&self) -> Vec<Arc<Run>> {
        self.live().values().filter(|run| run.is_alive()).cloned().collect()
    }

    fn folder(&self, run_id: &str) -> PathBuf {
        self.root.join(run_id)
    }

    fn find(&self, run_id: &str) -> Result<Found, ConnectError> {
        check_run_id(run_id)?;
        if let Some(run) = self.live().get(run_id) {
            return Ok(Found::Live(Arc::clone(run)));
        }
        let folder = self.folder(run_id);
        if !folder.is_dir() {
            return Err(ConnectError::new(Code::NotFound, format!("run {run_id} not found")));
        }
        let stored = self.load(folder).map_err(|error| internal(format!("reading run {run_id}: {error}")))?;
        Ok(Found::Stored(Box::new(stored)))
    }

    /// Reads a run's record. One that cannot be running any more and has no end is lost from now on.
    fn load(&self, folder: PathBuf) -> io::Result<Stored> {
        let spec = record::read_spec(&folder)?;
        let process = record::read_pid(&folder)?;
        let mut exit = record::read_exit(&folder)?;
        let same_boot = spec.as_ref().is_some_and(|spec| spec.boot_id == self.boot_id);
        if exit.is_none() && !(same_boot && process.is_some_and(ProcessId::is_alive)) {
            let reason = if spec.is_none() {
                "the sandbox or its daemon went away while the run was being started"
            } else if same_boot {
                "the sandbox's daemon went away while it ran"
            } else {
                "the sandbox was restarted while it ran"
            };
            let now = Timestamp::now();
            let lost = Exit {
                state: RunState::Lost,
                exit_code: None,
                signal: None,
                reason: Some(reason.to_owned()),
                ended_at: now,
                duration_ms: spec.as_ref().map_or(0, |spec| milliseconds(spec.started_at, now)),
            };
            record::write_exit(&folder, &lost)?;
            exit = Some(lost);
        }
        Ok(Stored { folder, spec, process, exit })
    }

    /// Removes the records of runs that ended more than [`KEPT_AFTER_END`] before `now`.
    pub fn prune(&self, now: SystemTime) {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_none_or(|name| self.live().contains_key(name)) {
                continue;
            }
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            let old = age.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > KEPT_AFTER_END));
            // The folder changed last when the end was written into it.
            if old && self.load(entry.path()).is_ok_and(|stored| stored.exit.is_some()) {
                std::fs::remove_dir_all(entry.path()).ok();
            }
        }
    }
}

fn check_run_id(run_id: &str) -> Result<(), ConnectError> {
    if is_valid_run_id(run_id) {
        Ok(())
    } else {
        Err(invalid("runId must be 1 to 128 characters of letters, digits, '_' and '-'"))
    }
}

fn milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond() - from.as_millisecond()).unwrap_or(0)
}

async fn start(
    daemon: &Arc<Daemon>,
    question: StartRun,
    account: &Account,
) -> Result<RunReport, ConnectError> {
    let wait = wait_time(question.wait_ms)?;
    let window = Window::new(0, 0, question.limit)?;
    let run_id = question.run_id.clone();
    let sha256 = question.spec_sha256(&account.name);
    let (found, claimed) = claim_or_find(daemon, question, account, &sha256)?;
    let deadline = Instant::now() + wait;
    match &found {
        Found::Live(run) => {
            let mut exit = run.exit.subscribe();
            tokio::select! {
                biased;
                _ = exit.wait_for(Option::is_some) => {}
                () = sleep_until(deadline) => {}
            }
            report(&run_id, &found, window, claimed).await
        }
        Found::Stored(_) => {
            let found = settle(&daemon.journal, &run_id, found, deadline).await?;
            report(&run_id, &found, window, claimed).await
        }
    }
}

/// Waits for the end of a run that another daemon started; there is nothing to be told by, so it is looked at.
async fn settle(
    journal: &Journal,
    run_id: &str,
    mut found: Found,
    deadline: Instant,
) -> Result<Found, ConnectError> {
    while let Found::Stored(stored) = &found {
        if stored.exit.is_some() || Instant::now() >= deadline {
            break;
        }
        sleep(POLL).await;
        found = journal.find(run_id)?;
    }
    Ok(found)
}

fn claim_or_find(
    daemon: &Arc<Daemon>,
    question: StartRun,
    account: &Account,
    sha256: &str,
) -> Result<(Found, bool), ConnectError> {
    let journal = &daemon.journal;
    check_run_id(&question.run_id)?;
    let folder = journal.folder(&question.run_id);
    if journal.live().contains_key(&question.run_id) || folder.exists() {
        return same_run(journal.find(&question.run_id)?, &question.run_id, sha256)
            .map(|found| (found, false));
    }
    if question.process.cmd.is_empty() {
        return Err(invalid("process.cmd must name a program"));
    }
    let output_limit = question.output_limit.unwrap_or(DEFAULT_OUTPUT_LIMIT);
    if output_limit > MAX_OUTPUT_LIMIT {
        return Err(invalid(format!("outputLimit must be at most {MAX_OUTPUT_LIMIT} bytes")));
    }
    let directory = working_directory(daemon, &question.process, account)?;
    let spec = Spec {
        sha256: sha256.to_owned(),
        cmd: question.process.cmd.clone(),
        args: question.process.args.clone(),
        cwd: directory.to_string_lossy().into_owned(),
        user: account.name.clone(),
        boot_id: journal.boot_id.clone(),
        output_limit,
        started_at: Timestamp::now(),
    };
    let storing = |error: io::Error| internal(format!("storing run {}: {error}", question.run_id));
    DirBuilder::new().mode(0o700).create(&folder).map_err(storing)?;
    // From here to `insert` nothing is awaited, so nobody finds the run half-made.
    let unclaim = |error: ConnectError| {
        // Nothing runs, so the name is free again and the caller may retry.
        std::fs::remove_dir_all(&folder).ok();
        error
    };
    record::write_spec(&folder, &spec).map_err(storing).map_err(unclaim)?;
    let plan = Plan {
        program: &question.process.cmd,
        arguments: &question.process.args,
        environment: &daemon.environment(account, &question.process.envs),
        directory: &directory,
        account,
        streams: Streams::Pipes { stdin: question.stdin.is_some() },
    };
    let started = spawn::start(&daemon.reaper, &plan)
        .map_err(|error| unclaim(start_error(&question.process.cmd, &error)))?;
    let run = Arc::new(Run::new(folder, spec, started.pid));
    journal.live().insert(question.run_id.clone(), Arc::clone(&run));
    if let Some(process) = ProcessId::current(started.pid)
        && let Err(error) = record::write_pid(&run.folder, process)
    {
        log::warn("the process of a run was not stored", json!({"error": error.to_string()}));
    }
    log::info("run started", json!({"run": question.run_id, "pid": started.pid, "program": run.spec.cmd}));
    let limit = question.timeout_ms.filter(|limit| *limit > 0).map(Duration::from_millis);
    let finished = {
        let (journal, run_id) = (Arc::clone(journal), question.run_id.clone());
        move || {
            journal.live().remove(&run_id);
        }
    };
    let looking = Arc::clone(&run).look_after(started, question.stdin, limit, finished);
    if let Err(error) = looking {
        // The process is there but cannot be followed: end it rather than lose sight of it.
        run.kill(Signal::KILL);
        return Err(internal(format!("following run {}: {error}", question.run_id)));
    }
    Ok((Found::Live(run), true))
}

/// Refuses to take one run for another.
fn same_run(found: Found, run_id: &str, sha256: &str) -> Result<Found, ConnectError> {
    let other = match &found {
        Found::Live(run) => run.spec.sha256 != sha256,
        Found::Stored(stored) => stored.spec.as_ref().is_some_and(|spec| spec.sha256 != sha256),
    };
    if other {
        let message = format!("run {run_id} exists and runs something else; use a new runId");
        return Err(ConnectError::new(Code::AlreadyExists, message));
    }
    Ok(found)
}

async fn read(daemon: &Arc<Daemon>, question: ReadRun) -> Result<RunReport, ConnectError> {
    let deadline = Instant::now() + wait_time(question.wait_ms)?;
    let window = Window::new(question.stdout_offset, question.stderr_offset, question.limit)?;
    let mut found = daemon.journal.find(&question.run_id)?;
    match &found {
        Found::Live(run) => loop {
            let news = run.news.notified();
            let more = run.stdout.total() > window.stdout || run.stderr.total() > window.stderr;
            if more || run.ended().is_some() {
                break;
            }
            tokio::select! {
                () = news => {}
                () = sleep_until(deadline) => break,
            }
        },
        Found::Stored(_) => found = settle(&daemon.journal, &question.run_id, found, deadline).await?,
    }
    report(&question.run_id, &found, window, false).await
}

fn kill(daemon: &Daemon, question: &KillRun) -> Result<Empty, ConnectError> {
    let signal = match question.signal {
        None | Some(WireSignal::Sigkill) => Signal::KILL,
        Some(WireSignal::Sigterm) => Signal::TERM,
        Some(WireSignal::Unspecified) => {
            return Err(invalid("signal must be SIGNAL_SIGTERM, SIGNAL_SIGKILL or absent"));
        }
    };
    match daemon.journal.find(&question.run_id)? {
        Found::Live(run) => run.kill(signal),
        Found::Stored(stored) => {
            if let (None, Some(process)) = (&stored.exit, stored.process.filter(|process| process.is_alive()))
            {
                spawn::signal_group(process.pid, signal).ok();
            }
        }
    }
    Ok(Empty {})
}

/// What part of the output a report shows.
#[derive(Debug, Clone, Copy)]
struct Window {
    stdout: u64,
    stderr: u64,
    limit: u64,
}

impl Window {
    fn new(stdout: u64, stderr: u64, limit: Option<u64>) -> Result<Self, ConnectError> {
        let limit = limit.unwrap_or(DEFAULT_READ_LIMIT);
        if limit > MAX_READ_LIMIT {
            return Err(invalid(format!("limit must be at most {MAX_READ_LIMIT} bytes")));
        }
        Ok(Self { stdout, stderr, limit })
    }
}

fn wait_time(wait_ms: Option<u64>) -> Result<Duration, ConnectError> {
    let wait = wait_ms.unwrap_or(0);
    if wait > MAX_WAIT_MS {
        return Err(invalid(format!("waitMs must be at most {MAX_WAIT_MS}")));
    }
    Ok(Duration::from_millis(wait))
}

async fn report(
    run_id: &str,
    found: &Found,
    window: Window,
    claimed: bool,
) -> Result<RunReport, ConnectError> {
    let reading = |error: io::Error| internal(format!("reading the output of run {run_id}: {error}"));
    match found {
        Found::Live(run) => {
            // The state before the output: output read afterwards is then all there was at the end.
            let exit = run.ended();
            let (stdout, stderr) = read_live(run, window).await.map_err(reading)?;
            let process = Some(run.pid);
            let elapsed = run.elapsed_ms();
            Ok(assemble(run_id, Some(&run.spec), exit, process, elapsed, claimed, (stdout, stderr)))
        }
        Found::Stored(stored) => {
            let limit = stored.spec.as_ref().map_or(DEFAULT_OUTPUT_LIMIT, |spec| spec.output_limit);
            let folder = stored.folder.clone();
            let chunks = blocking(move || read_stored(&folder, limit, window)).await.map_err(reading)?;
            let elapsed =
                stored.spec.as_ref().map_or(0, |spec| milliseconds(spec.started_at, Timestamp::now()));
            let process = stored.process.map(|process| process.pid);
            Ok(assemble(run_id, stored.spec.as_ref(), stored.exit.clone(), process, elapsed, claimed, chunks))
        }
    }
}

fn assemble(
    run_id: &str,
    spec: Option<&Spec>,
    exit: Option<Exit>,
    pid: Option<u32>,
    elapsed_ms: u64,
    claimed: bool,
    (stdout, stderr): (Chunk, Chunk),
) -> RunReport {
    let duration_ms = exit.as_ref().map_or(elapsed_ms, |exit| exit.duration_ms);
    RunReport {
        run_id: run_id.to_owned(),
        state: exit.as_ref().map_or(RunState::Running, |exit| exit.state),
        claimed,
        pid,
        exit_code: exit.as_ref().and_then(|exit| exit.exit_code),
        signal: exit.as_ref().and_then(|exit| exit.signal.clone()),
        reason: exit.as_ref().and_then(|exit| exit.reason.clone()),
        boot_id: spec.map(|spec| spec.boot_id.clone()).unwrap_or_default(),
        started_at: spec.map(|spec| spec.started_at),
        ended_at: exit.map(|exit| exit.ended_at),
        duration_ms,
        stdout,
        stderr,
    }
}

async fn read_live(run: &Arc<Run>, window: Window) -> io::Result<(Chunk, Chunk)> {
    let most = run
        .stdout
        .total()
        .saturating_sub(window.stdout)
        .max(run.stderr.total().saturating_sub(window.stderr));
    let run = Arc::clone(run);
    let read = move || {
        Ok((run.stdout.read(window.stdout, window.limit)?, run.stderr.read(window.stderr, window.limit)?))
    };
    if most.min(window.limit) <= INLINE_READ { read() } else { blocking(read).await }
}

fn read_stored(folder: &Path, limit: u64, window: Window) -> io::Result<(Chunk, Chunk)> {
    Ok((
        Capture::reopen(folder, "stdout", limit)?.read(window.stdout, window.limit)?,
        Capture::reopen(folder, "stderr", limit)?.read(window.stderr, window.limit)?,
    ))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
