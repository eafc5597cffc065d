//! API keys and the principal that a request speaks for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, OwnerId, ProjectId};
use crate::project::Scope;

/// An API key's record. The key itself is shown once and only its SHA-256 is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id.
    pub key_id: KeyId,
    /// SHA-256 of the key, lower-case hex.
    pub hash: String,
    /// Whose key it is.
    pub owner: OwnerId,
    /// What the user calls it.
    pub name: String,
    /// The widest scope it allows.
    pub scope: Scope,
    /// The projects it is good for; `None` means all of its owner's.
    pub projects: Option<Vec<ProjectId>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// Counts the changes of this record.
    pub version: u64,
}

impl ApiKey {
    /// Whether the key opens anything at `now`.
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Who a request speaks for, as the authorizer found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The owner whose things it may see.
    pub owner: OwnerId,
    /// The widest scope.
    pub scope: Scope,
    /// The projects it is confined to; `None` means all.
    pub projects: Option<Vec<ProjectId>>,
}

impl Principal {
    /// Whether the principal may ask for `scope` in `project` at all (membership is checked apart).
    pub fn reaches(&self, project: &ProjectId, scope: Scope) -> bool {
        scope <= self.scope && self.projects.as_ref().is_none_or(|some| some.contains(project))
    }
}
