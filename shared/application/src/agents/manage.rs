//! Making, changing, reading and deleting an owner's agents.

use pvm_contracts::agents::Agent;
use pvm_domain::Timestamp;
use pvm_domain::agent::AgentDefinition;
use pvm_domain::ids::OwnerId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use super::{AgentLatest, AgentVersion, builtin};
use crate::authorize::require;
use crate::conversations::unpriced;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::Clock;
use crate::ports_model::{KnowModels, ModelError};
use crate::store::{Index, Listing, Position, ReadStore, StoreError, Tx, WriteStore};

fn shown(latest: AgentLatest) -> Agent {
    Agent {
        definition: latest.definition,
        builtin: false,
        version: latest.number,
        updated_at: Some(latest.updated_at),
    }
}

fn shown_builtin(definition: &AgentDefinition) -> Agent {
    Agent { definition: definition.clone(), builtin: true, version: 0, updated_at: None }
}

async fn latest(store: &impl ReadStore, owner: &OwnerId, agent_id: &str) -> AppResult<Option<AgentLatest>> {
    Ok(store.get(&keys::agent_latest(owner, agent_id)).await?)
}

/// The caller's agents and the built-in ones, by page; the built-in ones come first.
///
/// # Errors
/// `forbidden` without the scope `read`; of the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    limit: u32,
    after: Option<Position>,
) -> AppResult<(Vec<Agent>, Option<Position>)> {
    require(principal, Scope::Read)?;
    let first = after.is_none();
    let listing = Listing::of(keys::owner_partition(&principal.owner), "A#")
        .from_index(Index::Owner)
        .page(limit, after);
    let page = store.list::<AgentLatest>(listing).await?;
    let own: Vec<Agent> = page.items.into_iter().map(shown).collect();
    let mut agents = Vec::new();
    if first {
        // An agent of the caller's own goes before a built-in one of the same name.
        for definition in builtin() {
            if latest(store, &principal.owner, &definition.agent_id).await?.is_none_or(|own| own.deleted) {
                agents.push(shown_builtin(definition));
            }
        }
    }
    agents.extend(own);
    Ok((agents, page.next))
}

/// One agent.
///
/// # Errors
/// `not_found`; of the store.
pub async fn get(store: &impl ReadStore, principal: &Principal, agent_id: &str) -> AppResult<Agent> {
    require(principal, Scope::Read)?;
    pvm_domain::agent::agent_id("agent_id", agent_id).map_err(|_| AppError::not_found("agent"))?;
    match latest(store, &principal.owner, agent_id).await? {
        Some(own) if !own.deleted => Ok(shown(own)),
        _ => builtin()
            .iter()
            .find(|agent| agent.agent_id == agent_id)
            .map(shown_builtin)
            .ok_or_else(|| AppError::not_found("agent")),
    }
}

fn checked(models: &impl KnowModels, definition: &AgentDefinition) -> AppResult<()> {
    definition.check()?;
    let Some(model) = &definition.model else { return Ok(()) };
    match models.facts(model) {
        Ok(facts) => match unpriced(&definition.budget.unwrap_or_default(), model, facts) {
            Some(why) => Err(AppError::invalid("budget.cost_microusd", why)),
            None => Ok(()),
        },
        Err(ModelError::NotConfigured(why)) => {
            Err(AppError::invalid("model", format!("cannot be used: {why}")))
        }
        Err(other) => Err(AppError::invalid("model", format!("cannot be used: {other}"))),
    }
}

/// Defines an agent.
///
/// # Errors
/// `invalid` naming the field, `conflict` where the caller has one of this name.
pub async fn create(
    store: &impl WriteStore,
    models: &impl KnowModels,
    clock: &impl Clock,
    principal: &Principal,
    definition: AgentDefinition,
    claim: Option<&Claim>,
) -> AppResult<Agent> {
    require(principal, Scope::Write)?;
    let now = clock.now();
    if let Some(agent_id) = replayed(store, claim, now).await? {
        return get(store, principal, &agent_id).await;
    }
    checked(models, &definition)?;
    let before = latest(store, &principal.owner, &definition.agent_id).await?;
    if before.as_ref().is_some_and(|before| !before.deleted) {
        let detail = "You have an agent of this name; PUT changes it.";
        return Err(AppError::new(ErrorCode::Conflict, detail));
    }
    store_version(store, principal, definition, before, now, claim).await
}

/// Stores a new version of an agent. `if_version` is the version the caller has seen.
///
/// # Errors
/// `not_found`, `version_mismatch`, `invalid`; a built-in agent cannot be changed, only defined anew under its name.
pub async fn update(
    store: &impl WriteStore,
    models: &impl KnowModels,
    clock: &impl Clock,
    principal: &Principal,
    agent_id: &str,
    definition: AgentDefinition,
    if_version: Option<u64>,
) -> AppResult<Agent> {
    require(principal, Scope::Write)?;
    let before = own(store, principal, agent_id).await?;
    expect_version(&before, if_version)?;
    if definition.agent_id != agent_id {
        return Err(AppError::invalid("agent_id", "must be the one in the path"));
    }
    checked(models, &definition)?;
    store_version(store, principal, definition, Some(before), clock.now(), None).await
}

/// Deletes an agent. Runs that use a version of it go on with that version.
///
/// # Errors
/// `not_found`, `version_mismatch`.
pub async fn delete(
    store: &impl WriteStore,
    clock: &impl Clock,
    principal: &Principal,
    agent_id: &str,
    if_version: Option<u64>,
) -> AppResult<()> {
    require(principal, Scope::Write)?;
    let mut agent = own(store, principal, agent_id).await?;
    expect_version(&agent, if_version)?;
    agent.deleted = true;
    agent.updated_at = clock.now();
    store.commit(Tx::new().update(&mut agent)).await?;
    Ok(())
}

async fn own(store: &impl ReadStore, principal: &Principal, agent_id: &str) -> AppResult<AgentLatest> {
    pvm_domain::agent::agent_id("agent_id", agent_id).map_err(|_| AppError::not_found("agent"))?;
    match latest(store, &principal.owner, agent_id).await? {
        Some(agent) if !agent.deleted => Ok(agent),
        _ if builtin().iter().any(|agent| agent.agent_id == agent_id) => Err(AppError::new(
            ErrorCode::Conflict,
            "This agent is built in; POST one of the same name to use yours instead.",
        )),
        _ => Err(AppError::not_found("agent")),
    }
}

fn expect_version(agent: &AgentLatest, if_version: Option<u64>) -> AppResult<()> {
    if if_version.is_some_and(|seen| seen != agent.number) {
        let detail = format!("The agent is at version {}; read it again.", agent.number);
        return Err(AppError::new(ErrorCode::VersionMismatch, detail));
    }
    Ok(())
}

async fn store_version(
    store: &impl WriteStore,
    principal: &Principal,
    definition: AgentDefinition,
    before: Option<AgentLatest>,
    now: Timestamp,
    claim: Option<&Claim>,
) -> AppResult<Agent> {
    let owner = principal.owner.clone();
    let number = before.as_ref().map_or(1, |before| before.number + 1);
    let version = before.as_ref().map_or(0, |before| before.version);
    let mut record = AgentVersion {
        owner: owner.clone(),
        definition: definition.clone(),
        number,
        created_at: now,
        version: 0,
    };
    let mut latest = AgentLatest { owner, definition, number, deleted: false, updated_at: now, version };
    let mut tx = Tx::new().create(&mut record).update(&mut latest);
    if let Some(claim) = claim {
        tx = tx.create(&mut claim.record(&latest.definition.agent_id, now));
    }
    match store.commit(tx).await {
        Ok(_) => Ok(shown(latest)),
        Err(error @ StoreError::Conflict { .. }) => Err(AppError::new(
            ErrorCode::Conflict,
            "Somebody else changed this agent at the same moment; read it again and retry.",
        )
        .because(error)),
        Err(other) => Err(other.into()),
    }
}
