//! Projects.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use pvm_application::projects::ProjectView;
use pvm_contracts::projects::Project;
use pvm_entry::Reply;
use pvm_entry::reply::with_version;

fn shown(view: ProjectView) -> Project {
    Project::new(view.project, view.vm_status)
}

/// The answer that shows one project.
fn reply(view: ProjectView, make: impl FnOnce(&Project) -> Reply) -> Reply {
    let project = shown(view);
    with_version(make(&project), project.version)
}
