//! The status document of a project: VM, services, files, true at the moment of asking.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pvm_domain::Timestamp;
use pvm_domain::conversation::{Conversation, Usage};
use pvm_domain::event::LogId;
use pvm_domain::file::{ProjectFile, SyncStatus};
use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::{Project, Scope};
use pvm_domain::service::Service;
use pvm_domain::vm::{FailedStep, VmLease, VmStatus};

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::files::{save, unstored};
use crate::keys;
use crate::ports::{Ambient, ConnectVm, RunCommands, VmError, VmTraits, VmUse};
use crate::services::{self, RefreshError};
use crate::store::{Index, Listing, ReadStore, WriteStore};
use crate::vm::{lease, ready, recipe};

/// A VM has this long to answer; then the document tells what the records know.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

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
    /// Are in the VM alone, because the store cannot take them.
    pub unstored: u64,
}

/// What a project has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Seconds that its VMs were active.
    pub vm_active_secs: u64,
    /// What the ended runs of its conversations used.
    pub usage: Usage,
}

/// Everything that the status document tells.
#[derive(Debug, Clone)]
pub struct ProjectStatus {
    /// The project.
    pub project: Project,
    /// Its VM.
    pub lease: VmLease,
    /// Its services, with the URL of each that has a port, while the VM is there to answer.
    pub services: Vec<(Service, Option<String>)>,
    /// Its files.
    pub files: FileCounts,
    /// When anything last happened.
    pub last_activity: Timestamp,
    /// Whether the VM did not answer, so that services are told from the records alone.
    pub stale: bool,
    /// What the VM can do, where there is one and that is known.
    pub traits: VmTraits,
    /// What the VM uses, where it told.
    pub used: Option<VmUse>,
    /// Seconds since the VM was made or resumed, while it runs.
    pub uptime_secs: Option<u64>,
    /// What the project has cost so far.
    pub cost: Cost,
    /// Recorded installs that the VM lacks, because they could not be repeated.
    pub failed_installs: Vec<FailedStep>,
}

/// What looking at a VM found out, and what was counted beside it.
#[derive(Debug, Clone)]
struct Seen {
    services: Vec<Service>,
    used: Option<VmUse>,
    usage: Usage,
    files: FileCounts,
    stale: bool,
}

/// What was seen lately, by project: many viewers of one project make one round trip to its VM, and its files are counted
/// once. It is kept for [`limits::STATUS_KEPT_MILLIS`] and only as long as no record of the project's VM or services
/// changes, and nothing is told in the project's log.
#[derive(Debug, Default)]
pub struct Recent {
    seen: Mutex<HashMap<ProjectId, (Timestamp, u64, Seen)>>,
}

impl Recent {
    fn find(&self, project: &ProjectId, records: u64, now: Timestamp) -> Option<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, of, found) = seen.get(project)?;
        (*of == records && is_recent(*at, now)).then(|| found.clone())
    }

    fn keep(&self, project: &ProjectId, records: u64, now: Timestamp, found: Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, (at, ..)| is_recent(*at, now));
        seen.insert(project.clone(), (now, records, found));
    }
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(at).as_millis();
    (0..i128::from(limits::STATUS_KEPT_MILLIS)).contains(&age)
}

/// Tells whether anything was stored of the VM or the services, or told of the project, its files included.
fn version_of(lease: &VmLease, services: &[Service], head: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (lease.version, lease.epoch, &lease.vm_id, head).hash(&mut hasher);
    for service in services {
        (&service.service_id, service.version).hash(&mut hasher);
    }
    hasher.finish()
}

/// The status of a project.
///
/// # Errors
/// Of authorization and the store; a VM that does not answer makes the document `stale`, not an error.
pub async fn status<S: WriteStore, V: ConnectVm + RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    recent: &Recent,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<ProjectStatus> {
    let log = LogId::Project(project_id.clone());
    // The log's head first: what is told from here on makes a later look count again.
    let (project, head, lease, known, recipe) = tokio::join!(
        authorize(store, principal, project_id, Scope::Read),
        store.log_head(&log),
        lease::load(store, ambient, project_id),
        services::records(store, project_id),
        recipe::load(store, project_id),
    );
    let (project, head, mut lease, known) = (project?, head?, lease?, known?);
    let now = ambient.now();
    let records = version_of(&lease, &known, head);
    let seen = if let Some(seen) = recent.find(project_id, records, now) {
        seen
    } else {
        let (seen, usage, files) = tokio::join!(
            look(store, vm, ambient, &lease, known),
            usage_of(store, project_id),
            files_of(store, project_id, lease.vm_id.as_deref()),
        );
        let (mut seen, away) = seen?;
        (seen.usage, seen.files) = (usage?, files?);
        if let Some((vm_id, error)) = away {
            lease = lease::note_away(store, ambient, project_id, &vm_id, &error).await?;
        } else {
            recent.keep(project_id, version_of(&lease, &seen.services, head), now, seen.clone());
        }
        seen
    };
    let last_activity = lease.last_activity.max(project.updated_at);
    // A VM that does not answer gives no links either, and the document none.
    let urls = if seen.stale { None } else { services::urls(vm, &lease, &seen.services).await.ok() };
    let urls = urls.unwrap_or_default().into_iter().chain(std::iter::repeat(None));
    let services = seen.services.into_iter().zip(urls).collect();
    let running = lease.started_at.filter(|_| lease.is_running());
    Ok(ProjectStatus {
        traits: lease.vm_id.as_deref().map(|vm_id| vm.traits(vm_id)).unwrap_or_default(),
        uptime_secs: running.map(|since| now.duration_since(since).as_secs().max(0).unsigned_abs()),
        cost: Cost { vm_active_secs: lease.active_secs_at(now), usage: seen.usage },
        used: seen.used,
        stale: seen.stale,
        files: seen.files,
        failed_installs: recipe?.failed,
        project,
        services,
        last_activity,
        lease,
    })
}

/// Asks the VM, all at once, what it uses and how its services are; one that is paused only whether it is still
/// there. Answers its id and how where it turned out to be away.
async fn look<S: WriteStore, V: ConnectVm + RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    lease: &VmLease,
    mut services: Vec<Service>,
) -> AppResult<(Seen, Option<(String, VmError)>)> {
    let known = |services, stale| Seen {
        services,
        used: None,
        usage: Usage::default(),
        files: FileCounts::default(),
        stale,
    };
    let Some(ready) = ready::ready_of(lease) else {
        let away = paused_away(vm, ambient, lease).await;
        return Ok((known(services, false), away));
    };
    let recorded = services.clone();
    let asked = async {
        tokio::join!(vm.meter(&ready.vm_id), services::refresh(store, vm, ambient, &ready, &mut services),)
    };
    // A VM that does not answer must not hold the document up.
    let answered = tokio::select! {
        answered = asked => Some(answered),
        () = ambient.sleep(LOOK_WITHIN) => None,
    };
    let Some((used, refreshed)) = answered else { return Ok((known(recorded, true), None)) };
    match (used, refreshed) {
        (_, Err(RefreshError::App(error))) => Err(error),
        (Err(error @ (VmError::Gone | VmError::Paused)), _)
        | (_, Err(RefreshError::Vm(error @ (VmError::Gone | VmError::Paused)))) => {
            Ok((known(services, false), Some((ready.vm_id, error))))
        }
        (Err(_), _) | (_, Err(RefreshError::Vm(_))) => Ok((known(services, true), None)),
        (Ok(used), Ok(())) => Ok((Seen { used, ..known(services, false) }, None)),
    }
}

/// The id of a paused VM that its provider has no more. One that does not answer is believed to be there.
async fn paused_away<V: ConnectVm, A: Ambient>(
    vm: &V,
    ambient: &A,
    lease: &VmLease,
) -> Option<(String, VmError)> {
    let vm_id = lease.vm_id.as_ref().filter(|_| lease.state == VmStatus::Paused)?;
    tokio::select! {
        there = vm.is_there(vm_id) => match there {
            Ok(false) => Some((vm_id.clone(), VmError::Gone)),
            Ok(true) | Err(_) => None,
        },
        () = ambient.sleep(LOOK_WITHIN) => None,
    }
}

/// The project's files, counted.
async fn files_of(
    store: &impl ReadStore,
    project_id: &ProjectId,
    vm_id: Option<&str>,
) -> AppResult<FileCounts> {
    let (files, unstored) =
        futures::try_join!(save::records(store, project_id), unstored::load(store, project_id))?;
    Ok(FileCounts { unstored: unstored.total, ..count(&files, vm_id) })
}

/// What the ended runs of the project's conversations used.
async fn usage_of(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Usage> {
    let mut usage = Usage::default();
    let mut after = None;
    loop {
        let listing = Listing::of(keys::project_partition(project_id), "C#").from_index(Index::Owner);
        let page = store.list::<Conversation>(listing.page(limits::LIST_MAX, after)).await?;
        page.items.iter().for_each(|conversation| usage.add(&conversation.usage));
        after = page.next;
        if after.is_none() {
            return Ok(usage);
        }
    }
}

/// Files by their state. With a VM, one that it does not have yet is on its way, so that a restore shows its progress.
fn count(files: &[ProjectFile], vm_id: Option<&str>) -> FileCounts {
    let elsewhere = |file: &ProjectFile| {
        let copy = file.vm_copy.as_ref().map(|copy| copy.vm_id.as_str());
        vm_id.is_some_and(|vm_id| copy != Some(vm_id))
    };
    let mut counts = FileCounts::default();
    // A record whose first upload was given up is no file; one whose upload failed is told.
    let is_told = |file: &&ProjectFile| {
        file.object_version > 0 || !file.uploads.is_empty() || file.sync_status == SyncStatus::Failed
    };
    for file in files.iter().filter(is_told) {
        counts.total += 1;
        match file.sync_status {
            SyncStatus::Synced if elsewhere(file) => counts.pending += 1,
            SyncStatus::Synced => counts.synced += 1,
            SyncStatus::Pending => counts.pending += 1,
            SyncStatus::Failed => counts.failed += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use pvm_domain::ids::PrefixedId;

    use super::*;

    #[test]
    fn what_was_seen_is_kept_for_two_seconds_and_while_nothing_changes() {
        let recent = Recent::default();
        let (project, other) = (ProjectId::from_parts(1, 1), ProjectId::from_parts(2, 2));
        let at = |millis| Timestamp::from_millisecond(millis).unwrap();
        let seen = Seen {
            services: Vec::new(),
            used: None,
            usage: Usage::default(),
            files: FileCounts::default(),
            stale: true,
        };
        recent.keep(&project, 7, at(0), seen);
        assert!(recent.find(&project, 7, at(1_999)).is_some_and(|seen| seen.stale));
        assert!(recent.find(&project, 7, at(2_000)).is_none());
        assert!(recent.find(&project, 8, at(1)).is_none());
        assert!(recent.find(&other, 7, at(1)).is_none());
        // A clock that was set back makes nothing last for ever.
        assert!(recent.find(&project, 7, at(-1)).is_none());
    }
}
