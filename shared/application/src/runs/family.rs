//! A lane and its parallel run: what the one must know of the other while both go on.

use pvm_domain::conversation::{Conversation, Run, Usage, lane_run};

use super::draft::load_run;
use crate::error::AppResult;
use crate::keys;
use crate::store::ReadStore;

/// Whether a run is a lane whose parallel run has ended: whoever ended that may have died before they came to this one.
///
/// # Errors
/// Of the store.
pub(crate) async fn is_orphan(store: &impl ReadStore, run: &Run) -> AppResult<bool> {
    match &run.lane {
        Some(lane) if !run.is_over() => {
            Ok(load_run(store, &run.conversation_id, &lane.parent).await?.is_over())
        }
        _ => Ok(false),
    }
}

/// What the conversation has used beside this lane, the other lanes under way included, for the lane's budgets; `None`
/// for a run that is none.
///
/// # Errors
/// Of the store.
pub(crate) async fn spent(
    store: &impl ReadStore,
    conversation: &Conversation,
    run: &Run,
) -> AppResult<Option<Usage>> {
    let Some(lane) = run.lane.as_ref().filter(|_| !run.is_over()) else { return Ok(None) };
    let parent = load_run(store, &run.conversation_id, &lane.parent).await?;
    // Lanes that have ended are part of the conversation's sum.
    let mut spent = conversation.usage;
    spent.add(&parent.core.usage);
    let others = (0..).take(parent.agents.len()).filter(|index| *index != lane.index);
    let keys: Vec<_> =
        others.map(|index| keys::run(&run.conversation_id, &lane_run(&lane.parent, index))).collect();
    for other in futures::future::try_join_all(keys.iter().map(|key| store.get::<Run>(key))).await? {
        if let Some(other) = other.filter(|other| !other.is_over()) {
            spent.add(&other.core.usage.of_lane());
        }
    }
    Ok(Some(spent))
}
