//! Old commands of projects that live on: the record of one that ended long ago goes, and its whole output with it. Each
//! project has one item that says when something of it may be old enough, so that nobody looks through all projects.

use jiff::SignedDuration;
use pvm_domain::Timestamp;
use pvm_domain::command::Command;
use pvm_domain::ids::ProjectId;
use pvm_domain::limits;
use serde::{Deserialize, Serialize};

use crate::error::AppResult;
use crate::keys;
use crate::ports::{Clock, DeleteObject};
use crate::records::record;
use crate::store::{Index, Listing, StoreError, Tx, WriteStore};

/// Commands of one page, and of one project that are removed in one round before the others have their turn.
const COMMANDS: u32 = 200;
/// Commands after whose removal a round looks at no further project: each takes some requests, and a round has minutes.
const ROUND: u32 = 1_000;
/// Pages of one project that are looked at in one round.
const PAGES: u32 = 5;
/// A project is looked at again after this time at the earliest: a look that finds one command costs as much as one that
/// finds a day's.
const PAUSE: SignedDuration = SignedDuration::from_hours(24);
/// And at the latest, so that a shorter time that was set holds for what is there.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// When a project's old commands are next looked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Upkeep {
    project_id: ProjectId,
    due: Timestamp,
    version: u64,
}
record!(Upkeep, "upkeep", |r| keys::upkeep(&r.project_id),
    sweep: Some(keys::sweep(keys::Sweep::Upkeep, r.due, r.project_id.as_str())));

impl Upkeep {
    /// That of a new project, which has nothing old for a while.
    pub(crate) fn of(project_id: &ProjectId, now: Timestamp) -> Self {
        let due = now.saturating_add(LONGEST).unwrap_or(now);
        Self { project_id: project_id.clone(), due, version: 0 }
    }
}

/// Removes commands that ended longer than `kept` ago, in the projects that are due, at most `most` of each shard. Answers
/// how many went.
///
/// # Errors
/// Of the stores; the next call goes on.
pub(crate) async fn sweep(
    store: &impl WriteStore,
    objects: &impl DeleteObject,
    clock: &impl Clock,
    kept: SignedDuration,
    most: u32,
) -> AppResult<u32> {
    let now = clock.now();
    let mut gone = 0;
    for shard in 0..keys::SWEEP_SHARDS {
        let partition = keys::sweep_partition(keys::Sweep::Upkeep, shard);
        let mut listing = Listing::of(partition, "").from_index(Index::Sweep).page(most, None);
        listing.up_to = Some(keys::sweep_up_to(now));
        for listed in store.list::<Upkeep>(listing).await?.items {
            if gone >= ROUND {
                return Ok(gone);
            }
            // The index may lag: the record itself decides. A project that is gone has none, and gets none.
            let found: Option<Upkeep> = store.get(&keys::upkeep(&listed.project_id)).await?;
            if let Some(found) = found.filter(|found| found.due <= now) {
                gone += project(store, objects, found, now, kept).await?;
            }
        }
    }
    Ok(gone)
}

async fn project(
    store: &impl WriteStore,
    objects: &impl DeleteObject,
    mut upkeep: Upkeep,
    now: Timestamp,
    kept: SignedDuration,
) -> AppResult<u32> {
    let until = now.saturating_sub(kept).unwrap_or(Timestamp::MIN);
    let mut gone = 0;
    // Ids sort by the time they were made, so the oldest come first, and after one that is young all are.
    let mut next = now.saturating_add(kept).unwrap_or(now);
    let mut after = None;
    'pages: for page in 1.. {
        let listing = Listing::of(keys::project_partition(&upkeep.project_id), "CMD#");
        let found = store.list::<Command>(listing.page(COMMANDS, after)).await?;
        for command in found.items {
            let over = over_at(&command).saturating_add(kept).unwrap_or(Timestamp::MAX);
            if over <= now {
                gone += u32::from(remove(store, objects, &command).await?);
                continue;
            }
            next = next.min(over);
            if command.created_at > until {
                break 'pages;
            }
        }
        after = found.next;
        if after.is_none() {
            break;
        }
        if gone >= COMMANDS || page == PAGES {
            // There may be more: the next round goes on with this project, unless this one found nothing to do.
            if gone > 0 {
                next = now;
            }
            break;
        }
    }
    if next > now {
        let bound = |time| now.saturating_add(time).unwrap_or(now);
        next = next.clamp(bound(PAUSE), bound(LONGEST));
    }
    upkeep.due = next;
    match store.commit(Tx::new().update(&mut upkeep)).await {
        // The project is gone, or another round was faster.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(gone),
        Err(other) => Err(other.into()),
    }
}

/// When it ended. One whose end nobody noted has ended all the same once its longest time is over.
fn over_at(command: &Command) -> Timestamp {
    let longest = SignedDuration::from_secs(limits::COMMAND_TIMEOUT_MAX_SECS.cast_signed());
    let latest = command.created_at.saturating_add(longest).unwrap_or(Timestamp::MAX);
    command.finished_at.unwrap_or(latest)
}

/// Removes a command: its objects first, because an object without a record would never be found again.
async fn remove(store: &impl WriteStore, objects: &impl DeleteObject, command: &Command) -> AppResult<bool> {
    for key in [&command.stdout.object_key, &command.stderr.object_key].into_iter().flatten() {
        objects.delete(key).await?;
    }
    match store.commit(Tx::new().delete(command)).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}
