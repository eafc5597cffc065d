//! `GET /api/projects/{project_id}/services/{service_id}/logs`

use std::time::Duration;

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, Chunk, ReadFrom, RunCommands, RunReport};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_contracts::services::ServiceLogs;
use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::limits;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

use crate::output;
use crate::services::follow::{Follow, Watch};

/// Newest bytes of each stream unless asked otherwise.
const TAIL_BYTES: u64 = 64 * 1024;

/// Reads a service's output: its tail, or from given offsets on, with a long poll; or follows it, where an event stream
/// is asked for.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &(impl WriteStore + Clone + 'static),
    vm: &(impl RunCommands + Clone + 'static),
    ambient: &(impl Ambient + Clone + 'static),
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project: ProjectId = request::path_id(&request, "project_id")?;
    let id: ServiceId = request::path_id(&request, "service_id")?;
    let query = Query::of(&request, &["tail_bytes", "stdout_offset", "stderr_offset", "wait"])?;
    let tail = query.number("tail_bytes", 1..=limits::OUTPUT_INLINE_BYTES as u64 / 4)?.unwrap_or(TAIL_BYTES);
    let read = async |from| services::logs(store, vm, ambient, &principal, &project, &id, from).await;
    let (service, report) = match offsets(&query, tail)? {
        Some(from) => read(from).await?,
        None => match read(at_end()).await? {
            (_, Some(seen)) => read(before_end(&seen, tail)).await?,
            none => none,
        },
    };
    if request::wants_stream(&request) {
        let watch = Watch { store: store.clone(), vm: vm.clone(), ambient: ambient.clone(), principal };
        return Ok(Follow::new(watch, service, report).reply());
    }
    Ok(reply::ok(&shown(service.service_id.clone(), service.status, report.unwrap_or_else(nothing))))
}

fn offsets(query: &Query, limit: u64) -> AppResult<Option<ReadFrom>> {
    let stdout = query.number("stdout_offset", 0..=u64::MAX)?;
    let stderr = query.number("stderr_offset", 0..=u64::MAX)?;
    let wait = Duration::from_secs(query.number("wait", 0..=limits::POLL_WAIT_SECS)?.unwrap_or(0));
    let asked = stdout.is_some() || stderr.is_some();
    let (stdout, stderr) = (stdout.unwrap_or(0), stderr.unwrap_or(0));
    Ok(asked.then_some(ReadFrom { stdout, stderr, limit, wait }))
}

/// Nothing but how long the streams are.
fn at_end() -> ReadFrom {
    ReadFrom { stdout: u64::MAX >> 1, stderr: u64::MAX >> 1, limit: 1, wait: Duration::ZERO }
}

fn before_end(seen: &RunReport, tail: u64) -> ReadFrom {
    let from = |chunk: &Chunk| chunk.total.saturating_sub(tail);
    ReadFrom { stdout: from(&seen.stdout), stderr: from(&seen.stderr), limit: tail, wait: Duration::ZERO }
}

fn nothing() -> RunReport {
    use pvm_application::ports::RunState;
    let (stdout, stderr) = (Chunk::default(), Chunk::default());
    RunReport { state: RunState::Lost, exit_code: None, signal: None, duration_ms: 0, stdout, stderr }
}

fn shown(
    service_id: pvm_domain::ids::ServiceId,
    status: pvm_domain::service::ServiceStatus,
    report: RunReport,
) -> ServiceLogs {
    let truncated = report.stdout.offset > 0 || report.stderr.offset > 0;
    let (stdout, stdout_next) = output::text_of(&report.stdout);
    let (stderr, stderr_next) = output::text_of(&report.stderr);
    ServiceLogs { service_id, status, stdout, stderr, stdout_next, stderr_next, truncated }
}
