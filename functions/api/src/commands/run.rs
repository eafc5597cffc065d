//! `POST /api/projects/{project_id}/vm/command`

use std::time::Duration;

use lambda_http::Request;
use pvm_application::commands::{self, RunCommand};
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::{
    Ambient, ConnectVm, GetObject, PutObject, RequestSave, RunCommands, StartExecution,
};
use pvm_application::store::WriteStore;
use pvm_contracts::commands::RunCommand as Body;
use pvm_domain::command::CommandSpec;
use pvm_domain::limits;
use pvm_entry::{Reply, principal, request};

use crate::commands::stream::{Output, Watch};
use crate::commands::view::{self, Offsets};

/// Runs a command and answers with its end, or with where it stands; or streams it, where an event stream is asked for.
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
    let (principal, project) = (principal::of(&request)?, request::path_id(&request, "project_id")?);
    let streamed = request::wants_stream(&request);
    let input = asked(request::json(&request)?, streamed)?;
    let claim = request::claim(&request, &principal, request.body())?;
    let claim = claim.as_ref();
    let live =
        commands::run(store, objects, workflow, vm, saver, ambient, &principal, &project, claim, input)
            .await?;
    if streamed {
        let watch = Watch::new(store, objects, workflow, vm, saver, ambient, principal);
        return Ok(Output::new(watch, live, [0, 0]).reply());
    }
    view::reply(objects, live, Offsets::default()).await
}

/// The command as asked for. One that is streamed is not waited for: its stream tells the end.
fn asked(body: Body, streamed: bool) -> AppResult<RunCommand> {
    let most = limits::HTTP_INLINE_WAIT_SECS;
    let wait = body.wait_secs.unwrap_or(most);
    if wait > most {
        return Err(AppError::invalid(
            "wait_secs",
            format!("must be 0 to {most}; ask for the command again later"),
        ));
    }
    let defaults = CommandSpec::new(body.command);
    let spec = CommandSpec {
        working_dir: body.working_dir.unwrap_or(defaults.working_dir),
        env: body.env,
        stdin: body.stdin,
        user: body.user.unwrap_or(defaults.user),
        timeout_secs: body.timeout_secs.unwrap_or(defaults.timeout_secs),
        command: defaults.command,
    };
    let wait = if body.background || streamed { Duration::ZERO } else { Duration::from_secs(wait) };
    Ok(RunCommand { spec: spec.checked()?, wait })
}
