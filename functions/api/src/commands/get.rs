//! `GET /api/projects/{project_id}/vm/commands/{command_id}`

use std::time::Duration;

use lambda_http::Request;
use pvm_application::commands;
use pvm_application::error::AppResult;
use pvm_application::ports::{
    Ambient, ConnectVm, GetObject, PutObject, ReadFrom, RequestSave, RunCommands, StartExecution,
};
use pvm_application::store::WriteStore;
use pvm_domain::limits;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal};

use crate::commands::stream::{Output, Watch};
use crate::commands::view::{self, Offsets};

/// Looks at a command: its state and its output, whole or from given offsets on, with a long poll; or streams it from
/// there on, where an event stream is asked for.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle<S, O, W, V, R, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    saver: &R,
    ambient: &A,
    request: Request,
) -> AppResult<Reply>
where
    S: WriteStore + Clone + 'static,
    O: PutObject + GetObject + Clone + 'static,
    W: StartExecution + Clone + 'static,
    V: RunCommands + ConnectVm + Clone + 'static,
    R: RequestSave + Clone + 'static,
    A: Ambient + Clone + 'static,
{
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let command_id = request::path_id(&request, "command_id")?;
    let query = Query::of(&request, &["stdout_offset", "stderr_offset", "wait"])?;
    let stdout = query.number("stdout_offset", 0..=u64::MAX)?;
    let stderr = query.number("stderr_offset", 0..=u64::MAX)?;
    let from = ReadFrom {
        stdout: stdout.unwrap_or(0),
        stderr: stderr.unwrap_or(0),
        limit: limits::OUTPUT_INLINE_BYTES as u64 / 2,
        wait: Duration::from_secs(query.number("wait", 0..=limits::POLL_WAIT_SECS)?.unwrap_or(0)),
    };
    let live = commands::get(
        store,
        objects,
        workflow,
        vm,
        saver,
        ambient,
        &principal,
        &project_id,
        &command_id,
        from,
    )
    .await?;
    if request::wants_stream(&request) {
        let watch = Watch::new(store, objects, workflow, vm, saver, ambient, principal);
        return Ok(Output::new(watch, live, [from.stdout, from.stderr]).reply());
    }
    let shown = view::command(objects, live, Offsets { stdout, stderr }).await?;
    Ok(pvm_entry::reply::ok(&shown))
}
