//! Fair use: looking at an owner's limits and use, and setting limits. The counting itself happens in the transactions
//! that change what is counted (`Tx::within`).

use std::collections::BTreeMap;

use pvm_domain::Timestamp;
use pvm_domain::fair_use::{OwnerLimits, Resource, Use};
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use serde::{Deserialize, Serialize};

use crate::authorize::require;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::Clock;
use crate::records::record;
use crate::store::{ReadStore, StoreError, Tx, WriteStore};

/// A count of a minute is kept this long, so that nobody can be told a wrong one.
const MINUTE_KEPT: jiff::SignedDuration = jiff::SignedDuration::from_secs(300);
/// Tries before a change of limits gives up against others.
const TRIES: u32 = 8;

/// A counter as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UseCount {
    owner: OwnerId,
    resource: Resource,
    n: i64,
    #[serde(default)]
    version: u64,
}
record!(UseCount, "use", |r| keys::usage(&r.owner, r.resource));

/// A limit and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Of what.
    pub resource: Resource,
    /// The limit.
    pub most: u64,
    /// Used now.
    pub used: u64,
}

/// The limits of an owner.
///
/// # Errors
/// Of the store.
pub async fn limits_of(store: &impl ReadStore, owner: &OwnerId) -> AppResult<OwnerLimits> {
    let found = store.get(&keys::owner_limits(owner)).await?;
    Ok(found.unwrap_or_else(|| OwnerLimits::none(owner.clone())))
}

/// The limits of a project's owner.
///
/// # Errors
/// `not_found`; of the store.
pub async fn limits_of_project(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<OwnerLimits> {
    let project: Option<Project> = store.get(&keys::project(project_id)).await?;
    let project = project.ok_or_else(|| AppError::not_found("project"))?;
    limits_of(store, &project.owner).await
}

/// Adds a command to the count of this minute.
pub(crate) fn one_command(tx: Tx, owner: &OwnerId, now: Timestamp) -> Tx {
    let resource = Resource::CommandsPerMinute;
    let used = Use { owner: owner.clone(), resource, add: 1 };
    tx.count(keys::usage_in_minute(owner, resource, now), used, now.checked_add(MINUTE_KEPT).ok())
}

/// Adds a command to the count of this minute, within the limits of `owner`: the commit fails where they are reached.
///
/// # Errors
/// Of the store.
pub async fn counting_a_command(
    store: &impl ReadStore,
    owner: &OwnerId,
    tx: Tx,
    now: Timestamp,
) -> AppResult<Tx> {
    let limits = limits_of(store, owner).await?;
    Ok(one_command(tx, owner, now).within(&limits))
}

/// What the caller may use, and uses now.
///
/// # Errors
/// Of authorization and the store.
pub async fn get(store: &impl ReadStore, clock: &impl Clock, principal: &Principal) -> AppResult<Vec<Share>> {
    require(principal, Scope::Read)?;
    shares(store, clock, &principal.owner).await
}

/// Sets limits of an owner. Only an operator of the install may: `operators` are its owners.
///
/// # Errors
/// `forbidden` for others, `invalid` for a limit that cannot be.
pub async fn set(
    store: &impl WriteStore,
    clock: &impl Clock,
    principal: &Principal,
    operators: &[String],
    owner: &OwnerId,
    change: &BTreeMap<Resource, Option<u64>>,
) -> AppResult<Vec<Share>> {
    require(principal, Scope::Admin)?;
    let operates = operators.iter().any(|operator| operator == principal.owner.as_str());
    if !operates || principal.projects.is_some() {
        let detail = "Only an operator of this install may set limits; see `PVM_OPERATORS`.";
        return Err(AppError::new(ErrorCode::Forbidden, detail));
    }
    for _ in 0..TRIES {
        let mut limits = limits_of(store, owner).await?;
        limits.set(change)?;
        limits.updated_at = clock.now();
        match store.commit(Tx::new().update(&mut limits)).await {
            Ok(_) => return shares(store, clock, owner).await,
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The limits keep changing; try again."))
}

async fn shares(store: &impl ReadStore, clock: &impl Clock, owner: &OwnerId) -> AppResult<Vec<Share>> {
    let limits = limits_of(store, owner).await?;
    let mut shares = Vec::new();
    for resource in Resource::ALL {
        let key = match resource {
            Resource::CommandsPerMinute => keys::usage_in_minute(owner, resource, clock.now()),
            _ => keys::usage(owner, resource),
        };
        let count: Option<UseCount> = store.get(&key).await?;
        let used = count.map_or(0, |count| count.n.max(0)).unsigned_abs();
        shares.push(Share { resource, most: limits.most(resource), used });
    }
    Ok(shares)
}
