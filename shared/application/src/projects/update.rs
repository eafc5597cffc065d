//! Changing a project's own fields.

use std::collections::BTreeMap;

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_domain::text;
use pvm_domain::vm::VmLease;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::Clock;
use crate::projects::create::checked_template;
use crate::projects::{ProjectView, viewed};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::lease;

/// Tries before a change without a condition gives up.
const TRIES: u32 = 8;

/// What to change; a field that is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct ProjectChange {
    /// New display name.
    pub name: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// New template, for the next VM.
    pub template: Option<String>,
    /// New environment.
    pub env: Option<BTreeMap<String, String>>,
    /// Seconds without use after which its VM is paused.
    pub vm_idle_secs: Option<u64>,
    /// Seconds that its paused VM is kept.
    pub vm_paused_secs: Option<u64>,
}

/// Changes a project. `only` holds the versions that the caller has seen, where it named any.
///
/// # Errors
/// `version_mismatch` where the project has changed since, `invalid`, `not_found`.
pub async fn update(
    store: &impl WriteStore,
    clock: &impl Clock,
    principal: &Principal,
    project_id: &ProjectId,
    only: Option<&[u64]>,
    change: ProjectChange,
) -> AppResult<ProjectView> {
    let name = change.name.map(|name| text::name("name", &name)).transpose()?;
    let description = change.description.map(|text| text::description("description", &text)).transpose()?;
    let template = change.template.map(|template| checked_template(&template)).transpose()?;
    if let Some(env) = &change.env {
        text::env("env", env)?;
    }
    super::check_clocks(change.vm_idle_secs, change.vm_paused_secs)?;
    for _ in 0..TRIES {
        let mut project = authorize(store, principal, project_id, Scope::Write).await?;
        if only.is_some_and(|seen| !seen.contains(&project.version)) {
            let detail = format!("The project is at version {}; read it again and retry.", project.version);
            return Err(AppError::new(ErrorCode::VersionMismatch, detail));
        }
        project.name = name.clone().unwrap_or(project.name);
        project.description = description.clone().unwrap_or(project.description);
        project.template = template.clone().or(project.template);
        project.env = change.env.clone().unwrap_or(project.env);
        project.vm_idle_secs = change.vm_idle_secs.or(project.vm_idle_secs);
        project.vm_paused_secs = change.vm_paused_secs.or(project.vm_paused_secs);
        project.updated_at = clock.now();
        match store.commit(Tx::new().update(&mut project)).await {
            Ok(_) => {
                follow(store, clock, &project).await?;
                return viewed(store, project).await;
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The project keeps changing; try again."))
}

/// Tells the VM's lease, where there is one, what the project says now: its idle clock goes by it.
async fn follow(store: &impl WriteStore, clock: &impl Clock, project: &Project) -> AppResult<()> {
    if store.get::<VmLease>(&keys::vm_lease(&project.project_id)).await?.is_none() {
        return Ok(());
    }
    let told = lease::change(store, clock, &project.project_id, |lease| {
        let before = (lease.idle_secs, lease.paused_secs);
        lease.follow(project);
        Ok(before != (lease.idle_secs, lease.paused_secs))
    });
    told.await.map(|_| ())
}
