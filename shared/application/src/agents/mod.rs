//! Agents: the built-in ones, those that owners define, and which version of them a run uses.

mod builtin;
mod manage;
mod markdown;
mod resolve;
mod workspace;

use pvm_domain::agent::AgentDefinition;
use pvm_domain::ids::OwnerId;
use pvm_domain::{Invalid, Timestamp};
use serde::{Deserialize, Serialize};

pub use builtin::builtin;
pub use manage::{create, delete, get, list, update};
pub use markdown::{BadMarkdown, parse_markdown};
pub use resolve::{pin, pinned};
pub(crate) use workspace::pin_workspace;

use crate::keys;
use crate::records::record;

/// Refuses an agent that names tools which are none: a misspelt denial would protect nothing. The tools are built on this
/// crate, so whoever calls a use case brings this.
pub type CheckTools = fn(&AgentDefinition) -> Result<(), Invalid>;

/// One immutable version of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentVersion {
    /// Whose.
    pub owner: OwnerId,
    /// The definition.
    pub definition: AgentDefinition,
    /// Its number, from 1.
    pub number: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// Which version of an agent is the newest. It stays when the agent is deleted, so that numbers are never used twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentLatest {
    /// Whose.
    pub owner: OwnerId,
    /// The newest definition.
    pub definition: AgentDefinition,
    /// Its number.
    pub number: u64,
    /// Whether the agent was deleted.
    pub deleted: bool,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

record!(AgentVersion, "agent_version", |r| keys::agent_version(&r.owner, &r.definition.agent_id, r.number));
record!(AgentLatest, "agent_latest", |r| keys::agent_latest(&r.owner, &r.definition.agent_id),
    owner: (!r.deleted).then(|| keys::agent_listing(&r.owner, &r.definition.agent_id)));
