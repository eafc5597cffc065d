//! Who wrote which version of a file: where two agents write the same file at once, both hear of it. Seen is what the file
//! tools write; a shell command may write anything, and nobody can say which of its files it meant to.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use pvm_domain::Timestamp;
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::ids::{ConversationId, ProjectId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::Clock;
use crate::records::record;
use crate::store::{StoreError, Tx, WriteStore};

/// Writes that are not further apart than this were made at once, in seconds: about as long as a model thinks between
/// reading a file and writing it.
const AT_ONCE_SECS: i64 = 60;
/// A write is remembered this long, in seconds: a refusal names the writer.
const KEPT_SECS: i64 = 86_400;
/// Races on one file's record are between a handful of agents.
const TRIES: u32 = 10;

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The conversation, where an agent writes.
    pub conversation_id: Option<ConversationId>,
    /// The agent.
    pub agent_id: Option<String>,
    /// The tool call.
    pub call_id: String,
}

impl Writer {
    /// Whether it is the same agent of the same conversation; programs at the MCP door are one.
    fn is(&self, other: &Self) -> bool {
        (&self.conversation_id, &self.agent_id) == (&other.conversation_id, &other.agent_id)
    }

    fn name(&self) -> &str {
        self.agent_id.as_deref().unwrap_or("a program")
    }

    fn log(&self, project: &ProjectId) -> LogId {
        match &self.conversation_id {
            Some(id) => LogId::Conversation(id.clone()),
            None => LogId::Project(project.clone()),
        }
    }
}

/// How a write went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrote {
    /// The file has a new version.
    Written {
        /// SHA-256 before, or `absent`.
        before: String,
        /// SHA-256 now.
        now: String,
    },
    /// It was meant for another version than what is there.
    Refused {
        /// SHA-256 of what is there, or `absent`.
        found: String,
    },
}

/// The last write of a file by a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The project.
    pub project_id: ProjectId,
    /// The file, as the VM names it.
    pub path: String,
    /// SHA-256 of what was written.
    pub sha256: String,
    /// Who wrote it.
    pub by: Writer,
    /// When.
    pub at: Timestamp,
    /// The last call that a conflict was told of: a repeated step tells it once.
    pub told: Option<String>,
    /// Counts the changes of this record.
    pub version: u64,
}

record!(Edit, "edit", |r| keys::edit(&r.project_id, &hash(&r.path)),
    expires: r.at.saturating_add(SignedDuration::from_secs(KEPT_SECS)).ok());

fn hash(path: &str) -> String {
    hex::encode(Sha256::digest(path))
}

/// Notes a write of `path`. Where it was refused because somebody else had changed the file, or where it replaced what
/// somebody else wrote at the same time without having named the version it knew, a `file.conflict` is told to both.
/// Answers whose work was replaced.
///
/// # Errors
/// Of the store.
pub async fn note<S: WriteStore, C: Clock>(
    store: &S,
    clock: &C,
    project_id: &ProjectId,
    path: &str,
    writer: &Writer,
    wrote: &Wrote,
    named_version: bool,
) -> AppResult<Option<String>> {
    for _ in 0..TRIES {
        let now = clock.now();
        let last: Option<Edit> = store.get(&keys::edit(project_id, &hash(path))).await?;
        let other =
            last.as_ref().filter(|last| !last.by.is(writer) && collides(last, wrote, named_version, now));
        let is_write = matches!(wrote, Wrote::Written { .. });
        let replaced = other.filter(|_| is_write).map(|last| last.by.name().to_owned());
        if last.as_ref().is_some_and(|last| last.by.call_id == writer.call_id) {
            return Ok(None);
        }
        if last.as_ref().is_some_and(|last| last.told.as_ref() == Some(&writer.call_id)) {
            return Ok(replaced);
        }
        let mut tx = Tx::new();
        if let Some(last) = other {
            let data = json!({
                "path": path,
                "reason": if is_write { "overwritten" } else { "stale_write" },
                "written_by": last.by.name(),
                "written_at": last.at,
                "then_by": writer.name(),
                "tool_call_id": writer.call_id,
            });
            let mut event = NewEvent::new(EventType::FileConflict, now, data);
            event.agent_id.clone_from(&writer.agent_id);
            let logs = BTreeSet::from([writer.log(project_id), last.by.log(project_id)]);
            for log in logs {
                tx = tx.append(&log, event.clone());
            }
        }
        let told = other.map(|_| writer.call_id.clone());
        let next = match (wrote, last) {
            (Wrote::Written { now: sha256, .. }, last) => Some(Edit {
                project_id: project_id.clone(),
                path: path.to_owned(),
                sha256: sha256.clone(),
                by: writer.clone(),
                at: now,
                told,
                version: last.map_or(0, |last| last.version),
            }),
            (Wrote::Refused { .. }, Some(last)) if told.is_some() => Some(Edit { told, ..last }),
            (Wrote::Refused { .. }, _) => None,
        };
        let Some(mut next) = next else { return Ok(None) };
        match store.commit(tx.update(&mut next)).await {
            Ok(_) => return Ok(replaced),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The file keeps changing; try again in a moment."))
}

fn collides(last: &Edit, wrote: &Wrote, named_version: bool, now: Timestamp) -> bool {
    match wrote {
        Wrote::Refused { found } => *found == last.sha256,
        Wrote::Written { before, .. } => {
            !named_version
                && *before == last.sha256
                && now.duration_since(last.at) <= SignedDuration::from_secs(AT_ONCE_SECS)
        }
    }
}
