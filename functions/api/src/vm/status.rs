//! `GET /api/projects/{project_id}/status`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, ConnectVm, RunCommands};
use pvm_application::store::WriteStore;
use pvm_application::vm::status::{ProjectStatus, status};
use pvm_contracts::services::Service;
use pvm_contracts::vm::{FileCounts, Status};
use pvm_entry::{Reply, principal, reply, request};

/// Shows how a project stands.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    vm: &(impl ConnectVm + RunCommands),
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    Ok(reply::ok(&shown(status(store, vm, ambient, &principal, &project_id).await?)))
}

fn shown(status: ProjectStatus) -> Status {
    let ProjectStatus { project, lease, services, files, last_activity, stale, traits } = status;
    Status {
        project_id: project.project_id,
        name: project.name,
        vm_status: lease.state,
        vm_id: lease.vm_id,
        epoch: lease.epoch,
        template: lease.template.or(project.template),
        reason: lease.reason,
        started_at: lease.started_at,
        last_activity,
        services: services.into_iter().map(|(service, url)| Service::new(service, url)).collect(),
        files: FileCounts {
            total: files.total,
            synced: files.synced,
            pending: files.pending,
            failed: files.failed,
        },
        stale,
        capabilities: traits.capabilities,
        isolation: traits.isolation,
    }
}
