//! What the tools of services share: on whose behalf they act, and how a service is shown.

use pvm_application::authorize::authorize;
use pvm_application::keys;
use pvm_application::ports::ReadFrom;
use pvm_application::services;
use pvm_application::store::ReadStore;
use pvm_contracts::tools::ServiceOutput;
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_domain::service::{Service, ServiceStatus};
use std::time::Duration;

use crate::call::{Call, Ports, Stop};
use crate::output;

/// Lines of a failed service's output that its result shows.
const FAILED_LOG_BYTES: u64 = 4 * 1024;

/// The project's owner, confined to the project: whoever makes a tool call was authorized for it before.
pub(crate) async fn owner<P: Ports>(call: &Call<'_, P>) -> Result<Principal, Stop> {
    let project_id = &call.context.project_id;
    let project: Option<Project> = call
        .ports
        .store()
        .get(&keys::project(project_id))
        .await
        .map_err(pvm_application::error::AppError::from)?;
    let Some(project) = project else { return Err(Stop::error("The project does not exist any more.")) };
    let principal =
        Principal { owner: project.owner, scope: Scope::Write, projects: Some(vec![project_id.clone()]) };
    authorize(call.ports.store(), &principal, project_id, Scope::Write).await?;
    Ok(principal)
}

/// The service that `name` (or an id) means.
pub(crate) async fn find<P: Ports>(call: &Call<'_, P>, name: &str) -> Result<Service, Stop> {
    let all = services::records(call.ports.store(), &call.context.project_id).await?;
    let wanted = name.trim();
    let found = all.iter().find(|s| s.name == wanted || s.service_id.as_str() == wanted);
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|service| service.name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let shown: String = wanted.chars().take(64).collect();
        Stop::error(format!("There is no service {shown:?}. Services of this project: {there}."))
    })
}

/// A service as a result shows it.
pub(crate) fn shown(service: &Service, url: Option<String>) -> ServiceOutput {
    ServiceOutput {
        service_id: service.service_id.to_string(),
        name: service.name.clone(),
        status: service.status,
        reason: service.reason.clone(),
        command: service.command.clone(),
        port: service.port,
        url: url.filter(|_| matches!(service.status, ServiceStatus::Starting | ServiceStatus::Running)),
        log: None,
    }
}

/// A service in words.
pub(crate) fn line(service: &ServiceOutput) -> String {
    let status = match service.status {
        ServiceStatus::Starting => "starting",
        ServiceStatus::Running => "running",
        ServiceStatus::Failed => "failed",
        ServiceStatus::Stopped => "stopped",
    };
    let mut parts = vec![format!("{} ({}): {status}", service.name, service.service_id)];
    if let Some(reason) = &service.reason {
        parts.push(reason.clone());
    }
    if let Some(port) = service.port {
        parts.push(format!("port {port}"));
    }
    if let Some(url) = &service.url {
        parts.push(format!("from outside {url}"));
    }
    parts.join(", ")
}

/// The end of a service's output, `most` bytes of each stream, and whether there is more before it.
pub(crate) async fn log<P: Ports>(
    call: &Call<'_, P>,
    principal: &Principal,
    service: &Service,
    most: u64,
) -> Result<Option<(String, bool)>, Stop> {
    let ports = call.ports;
    let at = |stdout: u64, stderr: u64, limit: u64| {
        let from = ReadFrom { stdout, stderr, limit, wait: Duration::ZERO };
        services::logs(
            ports.store(),
            ports.vm(),
            ports.ambient(),
            principal,
            &call.context.project_id,
            &service.service_id,
            from,
        )
    };
    let (_, Some(begun)) = at(0, 0, 1).await? else { return Ok(None) };
    let from = (begun.stdout.total.saturating_sub(most), begun.stderr.total.saturating_sub(most));
    let (_, Some(tail)) = at(from.0, from.1, most).await? else { return Ok(None) };
    let (out, err) = (output::plain(&tail.stdout.data), output::plain(&tail.stderr.data));
    let text = match (out.trim().is_empty(), err.trim().is_empty()) {
        (_, true) => out,
        (true, false) => err,
        (false, false) => format!("[stdout]\n{}\n[stderr]\n{err}", out.trim_end()),
    };
    Ok(Some((text, from != (0, 0))))
}

/// Adds the end of its output to a service that failed: the model needs it to correct the cause.
pub(crate) async fn explain<P: Ports>(
    call: &Call<'_, P>,
    principal: &Principal,
    service: &Service,
    out: &mut ServiceOutput,
) -> Result<(), Stop> {
    if service.status == ServiceStatus::Failed {
        out.log = log(call, principal, service, FAILED_LOG_BYTES).await?.map(|(text, _)| text);
    }
    Ok(())
}
