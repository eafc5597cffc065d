//! Archives: a project's files as one `tar.zst`, built beside the requests that ask for it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ids::{ArchiveId, ProjectId};
use crate::limits;

/// How an archive stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveStatus {
    /// It is being built.
    Building,
    /// It can be downloaded.
    Ready,
    /// It could not be built.
    Failed,
}

/// An archive of a project's files. Its bytes are the object `a/<project>/<archive>.tar.zst`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archive {
    /// The project.
    pub project_id: ProjectId,
    /// Its id.
    pub archive_id: ArchiveId,
    /// How it stands.
    pub status: ArchiveStatus,
    /// Why it failed.
    pub reason: Option<String>,
    /// Files and links in it, once it is ready.
    pub entries: u64,
    /// Its size in bytes, once it is ready.
    pub size: u64,
    /// SHA-256 of its bytes, once it is ready.
    pub sha256: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

impl Archive {
    /// The S3 key of its bytes.
    pub fn object_key(&self) -> String {
        format!("a/{}/{}.tar.zst", self.project_id, self.archive_id)
    }

    /// When it is forgotten.
    pub fn expires_at(&self) -> Timestamp {
        after(self.created_at, limits::ARCHIVE_SECS)
    }

    /// How it stands at `now`: a build that has taken too long was lost with the function that did it.
    pub fn status_at(&self, now: Timestamp) -> ArchiveStatus {
        let lost = self.status == ArchiveStatus::Building
            && now >= after(self.created_at, limits::ARCHIVE_BUILD_SECS);
        if lost { ArchiveStatus::Failed } else { self.status }
    }
}

fn after(time: Timestamp, secs: u64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(secs.cast_signed())).unwrap_or(time)
}
