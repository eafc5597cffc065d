//! Commands that the server itself runs in a sandbox: those of builds, and what a template starts.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, header};
use pvm_e2b_wire::journal::{RunReport, SERVICE, StartRun};
use pvm_e2b_wire::process::ProcessConfig;

use super::create::new_id;
use super::{Engine, Sandbox};
use crate::body;
use crate::envd::EnvdError;

/// How long one call waits for a command's end.
pub(super) const POLL: Duration = Duration::from_secs(20);
/// How long a start command's own check may need until it succeeds.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long one check may take.
const READY_CHECK_MS: u64 = 10_000;
/// Pause between two checks.
const READY_EVERY: Duration = Duration::from_millis(250);

impl Engine {
    /// Starts what the template runs in each of its sandboxes, and waits a while until it is ready. That it is not is
    /// noted; the sandbox is there all the same. Called after each start from files, which have no processes.
    pub(super) async fn run_start_command(&self, sandbox: &Arc<Sandbox>) {
        let Some(command) = sandbox.with(|record| record.start.clone()) else { return };
        if let Some(start) = &command.start
            && let Err(error) = run_in_background(sandbox, start).await
        {
            let message = format!("The template's start command was not started: {error}");
            return sandbox.note(self.now_ms(), "error", &message);
        }
        if let Some(ready) = &command.ready
            && !becomes_ready(sandbox, ready).await
        {
            sandbox.note(self.now_ms(), "warn", "The template's start command is not ready");
        }
    }
}

async fn run_in_background(sandbox: &Sandbox, script: &str) -> Result<(), EnvdError> {
    // A new name for each start: the journal, which is among the kept files, knows the earlier ones.
    let run_id = format!("template-start-{}", new_id());
    let run = StartRun { run_id, process: shell(script), ..StartRun::default() };
    run_call(sandbox, "Start", &run, None).await.map(|_| ())
}

/// Checks until the check succeeds; false when it does not in time.
async fn becomes_ready(sandbox: &Sandbox, check: &str) -> bool {
    let limit = tokio::time::Instant::now() + READY_TIMEOUT;
    while tokio::time::Instant::now() < limit {
        let run = StartRun {
            run_id: format!("template-ready-{}", new_id()),
            process: shell(check),
            wait_ms: Some(READY_CHECK_MS),
            timeout_ms: Some(READY_CHECK_MS),
            ..StartRun::default()
        };
        match run_call(sandbox, "Start", &run, None).await {
            Ok(report) if report.exit_code == Some(0) => return true,
            Ok(_) => tokio::time::sleep(READY_EVERY).await,
            Err(_) => return false,
        }
    }
    false
}

/// A script as a login shell runs it.
pub(super) fn shell(script: &str) -> ProcessConfig {
    ProcessConfig {
        cmd: "/bin/bash".into(),
        args: vec!["-l".into(), "-c".into(), script.to_owned()],
        ..ProcessConfig::default()
    }
}

/// Calls the sandbox's run journal.
pub(super) async fn run_call(
    sandbox: &Sandbox,
    method: &str,
    message: &impl serde::Serialize,
    user: Option<&str>,
) -> Result<RunReport, EnvdError> {
    let runtime = sandbox.running().ok_or(EnvdError::Unresponsive)?;
    let document = serde_json::to_vec(message).map_err(|_| EnvdError::Unresponsive)?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{SERVICE}{method}"))
        .header(header::HOST, "envd")
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(user) = user {
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
        request = request.header(header::AUTHORIZATION, format!("Basic {credentials}"));
    }
    let request = request.body(body::full(document)).map_err(EnvdError::Request)?;
    let answer: Bytes = runtime.envd.control_request(request, POLL * 2).await?;
    serde_json::from_slice(&answer).map_err(|_| EnvdError::Unresponsive)
}
