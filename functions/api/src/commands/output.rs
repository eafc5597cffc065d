//! `GET /api/projects/{project_id}/vm/commands/{command_id}/output`: the raw bytes of one stream.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use lambda_http::Request;
use pvm_application::commands;
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::{
    Ambient, Chunk, ConnectVm, GetObject, PutObject, ReadFrom, RequestSave, RunCommands, StartExecution,
};
use pvm_application::store::WriteStore;
use pvm_contracts::commands::OutputStream;
use pvm_domain::limits;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

use crate::commands::view;

/// Bytes of one answer: where it is not streamed, base64 adds a third, and a Lambda's answer holds 6 MB.
const MOST: u64 = limits::UPLOAD_INLINE_BYTES;

/// Reads one stream's bytes from `offset` on; the headers say where the next answer starts and how many there are.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &(impl PutObject + GetObject),
    workflow: &impl StartExecution,
    vm: &(impl RunCommands + ConnectVm),
    saver: &impl RequestSave,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let (project, command) =
        (request::path_id(&request, "project_id")?, request::path_id(&request, "command_id")?);
    let (stream, from) = asked(&request)?;
    let live =
        commands::get(store, objects, workflow, vm, saver, ambient, &principal, &project, &command, from)
            .await?;
    let chunk = view::chunk(objects, &live, stream, from.stdout).await?;
    Ok(shown(&chunk))
}

/// Which stream, and from where on.
fn asked(request: &Request) -> AppResult<(OutputStream, ReadFrom)> {
    let query = Query::of(request, &["stream", "offset", "wait"])?;
    let stream = match query.text("stream").unwrap_or("stdout") {
        "stdout" => OutputStream::Stdout,
        "stderr" => OutputStream::Stderr,
        _ => return Err(AppError::invalid("stream", "must be `stdout` or `stderr`")),
    };
    let offset = query.number("offset", 0..=u64::MAX)?.unwrap_or(0);
    let wait = Duration::from_secs(query.number("wait", 0..=limits::POLL_WAIT_SECS)?.unwrap_or(0));
    Ok((stream, ReadFrom { stdout: offset, stderr: offset, limit: MOST, wait }))
}

fn shown(chunk: &Chunk) -> Reply {
    let data = chunk.data.slice(..chunk.data.len().min(MOST as usize));
    let next = chunk.offset + data.len() as u64;
    let reply = reply::bytes(StatusCode::OK, "application/octet-stream", data);
    let reply = reply::with_header(reply, HeaderName::from_static("x-output-next"), &next.to_string());
    reply::with_header(reply, HeaderName::from_static("x-output-total"), &chunk.total.to_string())
}
