//! Event logs on the wire, and tickets for clients that cannot send headers.

use jiff::Timestamp;
use pvm_domain::event::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of a long poll of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    /// Events with a `seq` above the `after` that was asked for, in order; may be empty.
    pub events: Vec<Event>,
    /// Send it as `after` next time.
    pub next_after: u64,
    /// Whether no run is active or queued and every event has been delivered. Never true of a project's own log.
    pub ended: bool,
}

/// Body of `POST /api/projects/{project_id}/stream-ticket`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTicket {
    /// The path the ticket opens, one of the project's event streams; absent means the project's own log.
    #[serde(default)]
    pub path: Option<String>,
}

/// A ticket: a token for one path, good for a minute, that goes into the query as `ticket`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ticket {
    /// The ticket itself.
    pub ticket: String,
    /// Path and query to open with it.
    pub url: String,
    /// When it stops opening anything; a stream opened before goes on.
    #[schemars(schema_with = "crate::time::time")]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("ticket", &"(secret)").field("expires_at", &self.expires_at).finish()
    }
}
