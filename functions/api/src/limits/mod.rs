//! Limits of fair use.

pub mod get;
pub mod set;

use pvm_application::fair_use::Share;
use pvm_contracts::fair_use::{Limit, Limits};
use pvm_domain::ids::OwnerId;

fn shown(owner: OwnerId, shares: Vec<Share>) -> Limits {
    let limit = |share: Share| Limit { limit: share.resource, most: share.most, used: share.used };
    Limits { owner, limits: shares.into_iter().map(limit).collect() }
}
