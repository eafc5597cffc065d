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
pub async fn handle(
    store: &(impl WriteStore + Clone + 'static),
    objects: &(impl PutObject + GetObject + Clone + 'static),
    workflow: &(impl StartExecution + Clone + 'static),
    vm: &(impl RunCommands + ConnectVm + Clone + 'static),
    saver: &(impl RequestSave + Clone + 'static),
    ambient: &(impl Ambient + Clone + 'static),
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let (project, command) =
        (request::path_id(&request, "project_id")?, request::path_id(&request, "command_id")?);
    let (offsets, from) = asked(&request)?;
    let live =
        commands::get(store, objects, workflow, vm, saver, ambient, &principal, &project, &command, from)
            .await?;
    if request::wants_stream(&request) {
        let watch = Watch::new(store, objects, workflow, vm, saver, ambient, principal);
        return Ok(Output::new(watch, live, [from.stdout, from.stderr]).reply());
    }
    Ok(pvm_entry::reply::ok(&view::command(objects, live, offsets).await?))
}

/// The offsets that were asked for, and how to read from there on.
fn asked(request: &Request) -> AppResult<(Offsets, ReadFrom)> {
    let query = Query::of(request, &["stdout_offset", "stderr_offset", "wait"])?;
    let stdout = query.number("stdout_offset", 0..=u64::MAX)?;
    let stderr = query.number("stderr_offset", 0..=u64::MAX)?;
    let from = ReadFrom {
        stdout: stdout.unwrap_or(0),
        stderr: stderr.unwrap_or(0),
        limit: limits::OUTPUT_INLINE_BYTES as u64 / 2,
        wait: Duration::from_secs(query.number("wait", 0..=limits::POLL_WAIT_SECS)?.unwrap_or(0)),
    };
    Ok((Offsets { stdout, stderr }, from))
}
