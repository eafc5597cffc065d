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

/// Adds the VM's state to a project.
async fn viewed(store: &impl ReadStore, project: Project) -> AppResult<ProjectView> {
    let lease: Option<pvm_domain::vm::VmLease> = store.get(&keys::vm_lease(&project.project_id)).await?;
    Ok(ProjectView { project, vm_status: lease.map_or(VmStatus::None, |lease| lease.state) })
}
