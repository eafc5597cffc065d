//! Agents on the wire.

use jiff::Timestamp;
use pvm_domain::agent::AgentDefinition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its definition.
    #[serde(flatten)]
    pub definition: AgentDefinition,
    /// Whether it is built into the system: it cannot be changed, but one of the same name goes before it.
    pub builtin: bool,
    /// Number of this version, from 1; 0 for a built-in one. The `ETag`.
    pub version: u64,
    /// When this version was made; `null` for a built-in one.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub updated_at: Option<Timestamp>,
}
