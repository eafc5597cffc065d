//! Limits of fair use on the wire.

use std::collections::BTreeMap;

use pvm_domain::fair_use::Resource;
use pvm_domain::ids::OwnerId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A limit, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// What is limited.
    pub limit: Resource,
    /// The most.
    pub most: u64,
    /// How much is used now.
    pub used: u64,
}

/// The limits of an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Whose.
    pub owner: OwnerId,
    /// All of them.
    pub limits: Vec<Limit>,
}

/// Body of `PUT /api/limits/{owner}`. What is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// New limits by name; `null` gives one its default back.
    pub limits: BTreeMap<Resource, Option<u64>>,
}
