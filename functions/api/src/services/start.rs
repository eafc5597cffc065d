//! `POST /api/projects/{project_id}/services`

use std::time::Duration;

use lambda_http::{Request, RequestExt};
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::{Ambient, ConnectVm, RunCommands, StartExecution};
use pvm_application::services::{self, NewService};
use pvm_application::store::WriteStore;
use pvm_contracts::services::{Service, StartService};
use pvm_entry::{Reply, principal, reply, request};

/// How long the answer waits for a service to get ready unless asked otherwise, and at most, in seconds.
const WAIT_SECS: u64 = 12;
const WAIT_MOST_SECS: u64 = 20;
/// How long a service may take to get ready unless asked otherwise, in seconds.
const READY_SECS: u64 = 60;

/// Starts a service.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    workflow: &impl StartExecution,
    vm: &(impl RunCommands + ConnectVm),
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let input = asked(request::json(&request)?)?;
    let claim = request::claim(&request, &principal, request.body())?;
    let started =
        services::start(store, workflow, vm, ambient, &principal, &project_id, claim.as_ref(), input).await?;
    let service = Service::new(started.0, started.1);
    let location = format!("{}/{}", request.raw_http_path(), service.service_id);
    Ok(reply::with_version(reply::created(&service, &location), service.version))
}

fn asked(body: StartService) -> AppResult<NewService> {
    let wait = body.wait_secs.unwrap_or(WAIT_SECS);
    if wait > WAIT_MOST_SECS {
        return Err(AppError::invalid(
            "wait_secs",
            format!("must be 0 to {WAIT_MOST_SECS}; list the services later"),
        ));
    }
    Ok(NewService {
        name: body.name,
        command: body.command,
        port: body.port,
        working_dir: body.working_dir.unwrap_or_default(),
        user: body.user.unwrap_or_else(|| "user".to_owned()),
        env: body.env,
        ready: body.ready,
        ready_timeout_secs: body.ready_timeout_secs.unwrap_or(READY_SECS),
        restart: body.restart.unwrap_or_default(),
        depends_on: body.depends_on,
        wait: Duration::from_secs(wait),
    })
}
