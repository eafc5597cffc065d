//! The status document of a project: VM, services, files, true at the moment of asking.

use pvm_domain::Timestamp;
use pvm_domain::file::{ProjectFile, SyncStatus};
use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_domain::service::Service;
use pvm_domain::vm::VmLease;

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::files::save;
use crate::ports::{Ambient, ConnectVm, RunCommands, VmError, VmTraits};
use crate::services;
use crate::store::WriteStore;
use crate::vm::{lease, ready};

/// Files by their state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// All.
    pub total: u64,
    /// In the VM as stored.
    pub synced: u64,
    /// Not in the VM yet.
    pub pending: u64,
    /// Could not be written there.
    pub failed: u64,
}

/// Everything that the status document tells.
#[derive(Debug, Clone)]
pub struct ProjectStatus {
    /// The project.
    pub project: Project,
    /// Its VM.
    pub lease: VmLease,
    /// Its services, with the URL of each that has a port.
    pub services: Vec<(Service, Option<String>)>,
    /// Its files.
    pub files: FileCounts,
    /// When anything last happened.
    pub last_activity: Timestamp,
    /// Whether the VM did not answer, so that services are told from the records alone.
    pub stale: bool,
    /// What the VM can do, where there is one and that is known.
    pub traits: VmTraits,
}

/// The status of a project.
///
/// # Errors
/// Of authorization and the store; a VM that does not answer makes the document `stale`, not an error.
pub async fn status<S: WriteStore, V: ConnectVm + RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<ProjectStatus> {
    let (project, lease, files, known) = tokio::join!(
        authorize(store, principal, project_id, Scope::Read),
        lease::load(store, ambient, project_id),
        save::records(store, project_id),
        services::records(store, project_id),
    );
    let (project, mut lease) = (project?, lease?);
    let (mut stale, mut services) = (false, known?);
    if let Some(ready) = ready::ready_of(&lease) {
        match services::refresh(store, vm, ambient, &ready, &mut services).await {
            Ok(()) => {}
            Err(services::RefreshError::Vm(VmError::Gone)) => {
                lease = lease::note_gone(store, ambient, project_id, &ready.vm_id).await?;
            }
            Err(services::RefreshError::Vm(_)) => stale = true,
            Err(services::RefreshError::App(error)) => return Err(error),
        }
    }
    let last_activity = lease.last_activity.max(project.updated_at);
    let url = |service: &Service| Some(vm.port_url(lease.vm_id.as_deref()?, service.port?));
    let services =
        services.into_iter().map(|service| (url(&service), service)).map(|(url, s)| (s, url)).collect();
    let traits = lease.vm_id.as_deref().map(|vm_id| vm.traits(vm_id)).unwrap_or_default();
    Ok(ProjectStatus { traits, project, services, files: count(&files?), last_activity, stale, lease })
}

fn count(files: &[ProjectFile]) -> FileCounts {
    let mut counts = FileCounts::default();
    // A record whose first upload never arrived is not a file yet.
    for file in files.iter().filter(|file| file.object_version > 0 || !file.uploads.is_empty()) {
        counts.total += 1;
        match file.sync_status {
            SyncStatus::Synced => counts.synced += 1,
            SyncStatus::Pending => counts.pending += 1,
            SyncStatus::Failed => counts.failed += 1,
        }
    }
    counts
}
