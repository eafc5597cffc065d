//! `GET /api/projects/{project_id}/status`

use std::sync::LazyLock;

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, ConnectVm, RunCommands};
use pvm_application::store::WriteStore;
use pvm_application::vm::status::{ProjectStatus, Recent, status};
use pvm_contracts::services::Service;
use pvm_contracts::vm::{Cost, FailedInstall, FileCounts, Resources, Status};
use pvm_domain::vm::FailedStep;
use pvm_entry::{Reply, principal, reply, request};

/// What this process saw of VMs within the last two seconds.
static RECENT: LazyLock<Recent> = LazyLock::new(Recent::default);

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
    Ok(reply::ok(&shown(status(store, vm, ambient, &RECENT, &principal, &project_id).await?)))
}

fn shown(status: ProjectStatus) -> Status {
    let ProjectStatus { project, lease, services, files, last_activity, stale, traits, .. } = status;
    let usage = status.cost.usage;
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
            unstored: files.unstored,
        },
        stale,
        resources: status.used.map(|used| Resources {
            cpus: used.cpus,
            cpu_percent: used.cpu_percent,
            memory_bytes: used.memory_bytes,
            memory_used_bytes: used.memory_used_bytes,
            disk_bytes: used.disk_bytes,
            disk_used_bytes: used.disk_used_bytes,
        }),
        uptime_secs: status.uptime_secs,
        cost: Cost {
            vm_active_secs: status.cost.vm_active_secs,
            model_calls: usage.model_calls,
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            model_usd: usage.cost_microusd as f64 / 1e6,
        },
        capabilities: traits.capabilities,
        isolation: traits.isolation,
        failed_installs: status.failed_installs.into_iter().map(failed_install).collect(),
    }
}

fn failed_install(step: FailedStep) -> FailedInstall {
    FailedInstall { command: step.command, exit_code: step.exit_code, output: step.output }
}
