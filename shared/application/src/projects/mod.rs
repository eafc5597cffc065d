//! Projects: making, finding, changing and deleting them.

mod create;
mod delete;
mod get;
mod list;
mod update;

pub use create::{NewProject, create};
pub use delete::delete;
pub use get::get;
pub use list::list;
pub use update::{ProjectChange, update};

use pvm_domain::project::Project;
use pvm_domain::vm::VmStatus;
use pvm_domain::{Invalid, limits};

use crate::error::AppResult;
use crate::keys;
use crate::store::ReadStore;

/// A project with the state of its VM.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectView {
    /// The project.
    pub project: Project,
    /// The state of its VM.
    pub vm_status: VmStatus,
}

/// Checks the times that a project sets for its VM.
fn check_clocks(idle: Option<u64>, paused: Option<u64>) -> Result<(), Invalid> {
    if idle.is_some_and(|secs| !(limits::VM_IDLE_MIN_SECS..=limits::VM_IDLE_MAX_SECS).contains(&secs)) {
        let (least, most) = (limits::VM_IDLE_MIN_SECS, limits::VM_IDLE_MAX_SECS);
        return Err(Invalid::new("vm_idle_secs", format!("must be {least} to {most}")));
    }
    if paused.is_some_and(|secs| !(limits::VM_IDLE_MIN_SECS..=limits::VM_PAUSED_MAX_SECS).contains(&secs)) {
        let (least, most) = (limits::VM_IDLE_MIN_SECS, limits::VM_PAUSED_MAX_SECS);
        return Err(Invalid::new("vm_paused_secs", format!("must be {least} to {most}")));
    }
    Ok(())
}

/// Adds the VM's state to a project.
async fn viewed(store: &impl ReadStore, project: Project) -> AppResult<ProjectView> {
    let lease: Option<pvm_domain::vm::VmLease> = store.get(&keys::vm_lease(&project.project_id)).await?;
    Ok(ProjectView { project, vm_status: lease.map_or(VmStatus::None, |lease| lease.state) })
}
