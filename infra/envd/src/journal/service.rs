//! `pvm.RunJournal`: start or attach, read, kill.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use hyper::StatusCode;
use jiff::Timestamp;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::journal::{
    DEFAULT_OUTPUT_LIMIT, KillRun, MAX_OUTPUT_LIMIT, MAX_WAIT_MS, ReadRun, RunReport, StartRun,
};
use pvm_e2b_wire::process::{Empty, Signal as WireSignal};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::record::{self, ProcessId, Spec};
use super::report::{Window, report};
use super::run::Run;
use super::{Found, Journal, check_run_id};
use crate::accounts::Account;
use crate::daemon::Daemon;
use crate::http::rpc::{self, internal, invalid};
use crate::http::{Request, Response, reply};
use crate::log;
use crate::process::spawn::{self, Plan, Streams};
use crate::process::{start_error, working_directory};

/// How often a run is looked at that another daemon started.
const POLL: Duration = Duration::from_millis(200);

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
    let storing = |error: io::Error| not_stored(&question.run_id, &error);
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

/// The error of a run that could not be claimed. A full disk is a fact about the sandbox and no fault of ours: asking again
/// is of no use before there is room.
fn not_stored(run_id: &str, error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let message =
                "the disk is full, so the run cannot be noted and was not started: remove files first";
            ConnectError::new(Code::FailedPrecondition, message)
        }
        _ => internal(format!("storing run {run_id}: {error}")),
    }
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

fn wait_time(wait_ms: Option<u64>) -> Result<Duration, ConnectError> {
    let wait = wait_ms.unwrap_or(0);
    if wait > MAX_WAIT_MS {
        return Err(invalid(format!("waitMs must be at most {MAX_WAIT_MS}")));
    }
    Ok(Duration::from_millis(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_that() {
        for number in [libc::ENOSPC, libc::EDQUOT] {
            let told = not_stored("r", &io::Error::from_raw_os_error(number));
            assert_eq!(told.code, Code::FailedPrecondition);
            assert!(told.message.contains("disk is full"), "{told}");
        }
        assert_eq!(not_stored("r", &io::Error::from_raw_os_error(libc::EIO)).code, Code::Internal);
    }
}
