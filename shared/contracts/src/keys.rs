//! API keys on the wire.

use jiff::Timestamp;
use pvm_domain::ids::{KeyId, OwnerId, ProjectId};
use pvm_domain::key;
use pvm_domain::project::Scope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// What you call it, 1 to 100 characters.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// The widest thing it allows; not wider than the key that makes it. Absent means `write`.
    #[serde(default)]
    pub scope: Option<Scope>,
    /// The projects it is good for, 1 to 100; absent means all of yours.
    #[serde(default)]
    pub project_ids: Option<Vec<ProjectId>>,
    /// Seconds until it stops working, at most ten years; absent means never.
    #[serde(default)]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub expires_in_secs: Option<u64>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Its id.
    pub key_id: KeyId,
    /// Whose key it is.
    pub owner: OwnerId,
    /// What its owner calls it.
    pub name: String,
    /// The widest thing it allows.
    pub scope: Scope,
    /// The projects it is good for; `null` means all of its owner's.
    pub project_ids: Option<Vec<ProjectId>>,
    /// When it was made.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When it stops working, if ever.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub expires_at: Option<Timestamp>,
}

impl From<key::ApiKey> for Key {
    fn from(key: key::ApiKey) -> Self {
        Self {
            key_id: key.key_id,
            owner: key.owner,
            name: key.name,
            scope: key.scope,
            project_ids: key.projects,
            created_at: key.created_at,
            expires_at: key.expires_at,
        }
    }
}

/// Answer of `POST /api/keys`: the only time that the key itself is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewKey {
    /// Everything about it.
    #[serde(flatten)]
    pub key: Key,
    /// The key itself, `pvm_` and 43 letters and digits. Store it now: it cannot be shown again.
    pub api_key: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("key", &self.key).field("api_key", &"(secret)").finish()
    }
}
