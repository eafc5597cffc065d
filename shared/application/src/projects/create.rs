//! Making a project, at once; its VM, where asked for, is set up by a workflow afterwards.

use std::collections::BTreeMap;

use pvm_domain::event::LogId;
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_domain::vm::{VmLease, VmStatus};
use pvm_domain::{Invalid, text};

use crate::authorize::require;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, StartExecution};
use crate::projects::{ProjectView, viewed};
use crate::store::{ReadStore, StoreError, Tx, WriteStore};
use crate::upkeep::Upkeep;
use crate::vm::{lease, provision, ready};

/// A project as asked for.
#[derive(Debug, Clone)]
pub struct NewProject {
    /// Display name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Whether to set the VM up at once.
    pub auto_setup_vm: bool,
    /// Template of the VM.
    pub template: Option<String>,
    /// Environment of everything that runs in the VM.
    pub env: BTreeMap<String, String>,
    /// Seconds without use after which its VM is paused.
    pub vm_idle_secs: Option<u64>,
    /// Seconds that its paused VM is kept.
    pub vm_paused_secs: Option<u64>,
}

/// Makes a project. With `auto_setup_vm` its VM is `starting` in the answer.
///
/// # Errors
/// `invalid` for a broken field, `forbidden` for a token that is confined to certain projects, those of idempotency.
pub async fn create<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    ambient: &A,
    principal: &Principal,
    claim: Option<&Claim>,
    input: NewProject,
) -> AppResult<ProjectView> {
    require(principal, Scope::Write)?;
    if principal.projects.is_some() {
        let detail =
            "This token is confined to certain projects and cannot make new ones; use one that is not.";
        return Err(AppError::new(ErrorCode::Forbidden, detail));
    }
    let mut project = checked(ambient, principal, input)?;
    if let Some(known) = replayed(store, claim, ambient.now()).await? {
        return made_before(store, &known).await;
    }
    let mut upkeep = Upkeep::of(&project.project_id, project.created_at);
    let mut tx = Tx::new().create(&mut project).create(&mut upkeep);
    if let Some(claim) = claim {
        tx = tx.create(&mut claim.record(&project.project_id, ambient.now()));
    }
    let operation = project.auto_setup_vm.then(|| ambient.new_id::<OperationId>());
    if let Some(operation) = &operation {
        let mut lease = VmLease::none(project.project_id.clone(), ambient.now());
        lease.follow(&project);
        lease
            .begin(operation.clone(), VmStatus::Starting, ambient.now())
            .map_err(|busy| AppError::new(ErrorCode::Internal, busy.to_string()))?;
        let event = lease::state_event(&lease, ambient);
        let limits = fair_use::limits_of(store, &project.owner).await?;
        tx = tx.create(&mut lease).append(&LogId::Project(project.project_id.clone()), event).within(&limits);
    }
    match store.commit(tx).await {
        Ok(_) => {}
        // The same request twice at the same moment: the other one made the project.
        Err(StoreError::Conflict { key }) if claim.is_some_and(|claim| claim.key() == key) => {
            let known = replayed(store, claim, ambient.now()).await?;
            return made_before(store, &known.ok_or_else(|| AppError::not_found("project"))?).await;
        }
        Err(other) => return Err(other.into()),
    }
    let Some(operation) = operation else { return Ok(ProjectView { project, vm_status: VmStatus::None }) };
    match ready::start(workflow, &project.project_id, "setup", &operation).await {
        Ok(()) => Ok(ProjectView { project, vm_status: VmStatus::Starting }),
        Err(error) => {
            // The project is there and usable; the VM's first use tries again.
            tracing::warn!(project.id = %project.project_id, %error, "the VM's set-up could not be started");
            provision::fail(store, ambient, &project.project_id, &operation, &error.detail, false).await?;
            Ok(ProjectView { project, vm_status: VmStatus::Failed })
        }
    }
}

fn checked(ambient: &impl Ambient, principal: &Principal, input: NewProject) -> AppResult<Project> {
    text::env("env", &input.env)?;
    super::check_clocks(input.vm_idle_secs, input.vm_paused_secs)?;
    let template = input.template.map(|template| checked_template(&template)).transpose()?;
    let now = ambient.now();
    Ok(Project {
        project_id: ambient.new_id(),
        owner: principal.owner.clone(),
        name: text::name("name", &input.name)?,
        description: text::description("description", &input.description)?,
        auto_setup_vm: input.auto_setup_vm,
        template,
        env: input.env,
        vm_idle_secs: input.vm_idle_secs,
        vm_paused_secs: input.vm_paused_secs,
        deleting: false,
        created_at: now,
        updated_at: now,
        version: 0,
    })
}

/// A template's name as providers write them.
pub(super) fn checked_template(template: &str) -> Result<String, Invalid> {
    let ok = (1..=128).contains(&template.len())
        && template.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b));
    if ok {
        Ok(template.to_owned())
    } else {
        Err(Invalid::new("template", "must be 1 to 128 letters, digits, -, _, ., : and /"))
    }
}

/// What the first request of this `Idempotency-Key` made, as it is now.
async fn made_before(store: &impl ReadStore, id: &str) -> AppResult<ProjectView> {
    let missing = || AppError::not_found("project");
    let id: ProjectId = id.parse().map_err(|_| missing())?;
    let project: Option<Project> = store.get(&keys::project(&id)).await?;
    match project.filter(|project| !project.deleting) {
        Some(project) => viewed(store, project).await,
        None => Err(missing()),
    }
}
