//! Clean-up of what the VMs' provider has and the records do not say: VMs that nobody owns, and VMs that are paused by
//! their lease and run all the same, because somebody opened the link of a service.

use futures::StreamExt;
use pvm_domain::Timestamp;
use pvm_domain::ids::ProjectId;
use pvm_domain::project::Project;
use pvm_domain::vm::VmStatus;

use super::Counts;
use crate::error::{AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, EndVm, FindVm, StartExecution, VmInfo};
use crate::store::{ReadStore, WriteStore};
use crate::vm::{lease, ready};

/// VMs that one round compares with their records.
const BATCH: usize = 200;
/// Those whose records are read at the same time.
const AT_ONCE: usize = 16;

/// What is wrong with a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Its project is gone or has another one.
    Stray,
    /// Its lease says that it is paused.
    Awake,
}

/// Compares the provider's VMs with the records: all of them, or where there are many those whose turn it is. Only a
/// complete listing counts.
///
/// # Errors
/// Of the listing; trouble with a single VM is counted and logged.
pub(super) async fn reconcile<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    counts: &mut Counts,
) -> AppResult<u32>
where
    S: WriteStore,
    W: StartExecution,
    V: FindVm + EndVm,
    A: Ambient,
{
    let batch = turn(vm.vms(None).await?, ambient.now());
    let judged = futures::stream::iter(batch)
        .map(|known| async move { (judge(store, ambient, &known).await, known) })
        .buffer_unordered(AT_ONCE);
    let judged: Vec<_> = judged.collect().await;
    let mut strays = 0;
    for (wrong, known) in judged {
        let mended = match wrong {
            Ok(None) => Ok(()),
            Ok(Some((_, Wrong::Stray))) => {
                let ended = vm.kill_vm(&known.vm_id).await;
                strays += u32::from(ended.is_ok());
                ended.map_err(Into::into)
            }
            Ok(Some((project_id, Wrong::Awake))) => {
                counts.operations += 1;
                follow(store, workflow, vm, ambient, &project_id, &known).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = mended {
            tracing::warn!(vm.id = known.vm_id, error = ?error, "clean-up could not deal with a provider's VM");
            counts.errors += 1;
        }
    }
    Ok(strays)
}

/// The part of the VMs whose turn it is in this minute.
fn turn(mut all: Vec<VmInfo>, now: Timestamp) -> Vec<VmInfo> {
    let parts = all.len().div_ceil(BATCH).max(1);
    if parts > 1 {
        all.sort_by(|one, other| one.vm_id.cmp(&other.vm_id));
    }
    let minute = usize::try_from(now.as_second().div_euclid(60)).unwrap_or_default();
    all.into_iter().skip((minute % parts) * BATCH).take(BATCH).collect()
}

async fn judge<S: ReadStore, A: Ambient>(
    store: &S,
    ambient: &A,
    known: &VmInfo,
) -> AppResult<Option<(ProjectId, Wrong)>> {
    let Some(project_id) = known.project_id.as_deref().and_then(|id| id.parse::<ProjectId>().ok()) else {
        return Ok(None);
    };
    let key = keys::project(&project_id);
    let (project, lease) = tokio::join!(store.get::<Project>(&key), lease::load(store, ambient, &project_id));
    if project?.is_none() {
        return Ok(Some((project_id, Wrong::Stray)));
    }
    let lease = lease?;
    let Some(ours) = lease.vm_id.filter(|_| lease.operation.is_none()) else { return Ok(None) };
    Ok(match lease.state {
        _ if ours != known.vm_id => Some((project_id, Wrong::Stray)),
        VmStatus::Paused if !known.paused => Some((project_id, Wrong::Awake)),
        _ => None,
    })
}

/// A VM that runs though its lease is paused is taken into use, with everything that belongs to that; where its owner
/// has too many that run it is paused again.
async fn follow<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    known: &VmInfo,
) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution,
    V: FindVm + EndVm,
    A: Ambient,
{
    // It may have been paused just now, between the listing and the look at its lease.
    if vm.vm(&known.vm_id).await?.is_none_or(|now| now.paused) {
        return Ok(());
    }
    match ready::setup(store, workflow, ambient, project_id).await {
        Err(error) if error.code == ErrorCode::LimitReached => Ok(vm.pause_vm(&known.vm_id).await?),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn vms(count: usize) -> Vec<VmInfo> {
        let vm = |number: usize| VmInfo {
            vm_id: format!("vm{number:05}"),
            paused: false,
            project_id: None,
            template: String::new(),
            cpus: 1,
            memory_mib: 1,
            disk_mib: 1,
            ends_at: None,
            last_traffic: None,
        };
        (0..count).map(vm).collect()
    }

    #[test]
    fn every_vm_has_its_turn_and_no_round_has_more_than_a_batch() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        assert_eq!(turn(vms(BATCH), at(7)).len(), BATCH);
        assert!(turn(vms(0), at(7)).is_empty());
        let all = 2 * BATCH + 1;
        let mut seen = BTreeSet::new();
        for minute in 0..3 {
            let part = turn(vms(all), at(minute));
            assert!(part.len() <= BATCH);
            seen.extend(part.into_iter().map(|vm| vm.vm_id));
        }
        assert_eq!(seen.len(), all);
    }
}
