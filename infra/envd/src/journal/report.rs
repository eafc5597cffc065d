//! What is told about a run: its state, and a piece of its output.

use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use pvm_e2b_wire::connect::ConnectError;
use pvm_e2b_wire::journal::{
    Chunk, DEFAULT_OUTPUT_LIMIT, DEFAULT_READ_LIMIT, MAX_READ_LIMIT, RunReport, RunState,
};

use super::capture::Capture;
use super::record::{Exit, Spec};
use super::run::Run;
use super::{Found, milliseconds};
use crate::http::rpc::{internal, invalid};

/// Bytes per stream up to which a report is made on the runtime's own thread.
const INLINE_READ: u64 = 128 * 1024;

/// What part of the output a report shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) stdout: u64,
    pub(super) stderr: u64,
    pub(super) limit: u64,
}

impl Window {
    pub(super) fn new(stdout: u64, stderr: u64, limit: Option<u64>) -> Result<Self, ConnectError> {
        let limit = limit.unwrap_or(DEFAULT_READ_LIMIT);
        if limit > MAX_READ_LIMIT {
            return Err(invalid(format!("limit must be at most {MAX_READ_LIMIT} bytes")));
        }
        Ok(Self { stdout, stderr, limit })
    }
}

pub(super) async fn report(
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
