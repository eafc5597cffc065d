//! From an agent's name to the version that a run uses, and back to its definition.

use pvm_domain::agent::AgentDefinition;
use pvm_domain::conversation::PinnedAgent;
use pvm_domain::ids::OwnerId;

use super::{AgentLatest, AgentVersion, builtin};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::store::ReadStore;

/// The newest version of an agent: the owner's own, else the built-in one of that name.
///
/// # Errors
/// Of the store; `None` where there is no such agent.
pub async fn pin(
    store: &impl ReadStore,
    owner: &OwnerId,
    agent_id: &str,
) -> AppResult<Option<(PinnedAgent, AgentDefinition)>> {
    if pvm_domain::agent::agent_id("agent_ids", agent_id).is_err() {
        return Ok(None);
    }
    let own: Option<AgentLatest> = store.get(&keys::agent_latest(owner, agent_id)).await?;
    if let Some(own) = own.filter(|own| !own.deleted) {
        let pin = PinnedAgent { agent_id: agent_id.to_owned(), number: own.number };
        return Ok(Some((pin, own.definition)));
    }
    let built = builtin().iter().find(|agent| agent.agent_id == agent_id);
    Ok(built.map(|agent| (PinnedAgent { agent_id: agent_id.to_owned(), number: 0 }, agent.clone())))
}

/// The definition of a pinned version. Versions are never removed, so a run keeps its agents whatever happens to them.
///
/// # Errors
/// Of the store; `internal` where a version is missing.
pub async fn pinned(
    store: &impl ReadStore,
    owner: &OwnerId,
    pin: &PinnedAgent,
) -> AppResult<AgentDefinition> {
    let found = if pin.number == 0 {
        builtin().iter().find(|agent| agent.agent_id == pin.agent_id).cloned()
    } else {
        let key = keys::agent_version(owner, &pin.agent_id, pin.number);
        store.get::<AgentVersion>(&key).await?.map(|version| version.definition)
    };
    found.ok_or_else(|| {
        AppError::new(
            ErrorCode::Internal,
            format!("The agent {} has no version {}.", pin.agent_id, pin.number),
        )
    })
}
