//! Files on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pvm_domain::file::{ProjectFile, SyncStatus, WorkspacePath};
use pvm_domain::ids::FileId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// JSON body of `POST /api/projects/{project_id}/files`: asks for an upload straight to the file store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUpload {
    /// Where the file goes in the workspace; at most 1,000 bytes.
    #[schemars(length(min = 1))]
    pub path: String,
    /// Its exact size in bytes, at most 5 GiB.
    #[schemars(range(max = 5_368_709_120_u64))]
    pub size: u64,
    /// SHA-256 of its bytes, 64 lower-case hex digits; checked by the store where given.
    #[serde(default)]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Permission bits as an octal text such as `"755"`; absent keeps the file's, or 644 for a new one.
    #[serde(default)]
    #[schemars(regex(pattern = "^0?[0-7]{3}$"))]
    pub mode: Option<String>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct File {
    /// Its id, the same over all versions.
    pub file_id: FileId,
    /// Where it is in the workspace.
    pub path: WorkspacePath,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes; `null` until it is known.
    pub sha256: Option<String>,
    /// Permission bits as an octal text.
    pub mode: String,
    /// Whether the VM has it.
    pub sync_status: SyncStatus,
    /// Why the last sync failed.
    pub sync_error: Option<String>,
    /// When the record was made.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When its bytes last changed.
    #[schemars(schema_with = "crate::time::time")]
    pub updated_at: Timestamp,
    /// Counts the changes of the record; the `ETag`.
    pub version: u64,
}

impl From<ProjectFile> for File {
    fn from(file: ProjectFile) -> Self {
        Self {
            file_id: file.file_id,
            path: file.path,
            size: file.size,
            sha256: file.sha256,
            mode: format!("{:03o}", file.mode & 0o777),
            sync_status: file.sync_status,
            sync_error: file.sync_error,
            created_at: file.created_at,
            updated_at: file.updated_at,
            version: file.version,
        }
    }
}

/// A request to the file store that the client makes by itself, without its token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedRequest {
    /// HTTP method.
    pub method: String,
    /// The URL; a secret until it expires.
    pub url: String,
    /// Headers that must be sent along.
    pub headers: BTreeMap<String, String>,
    /// When the URL stops working.
    #[schemars(schema_with = "crate::time::time")]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedRequest")
            .field("method", &self.method)
            .field("url", &"(secret)")
            .finish_non_exhaustive()
    }
}

/// A file with the request that uploads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upload {
    /// The file; its size and hash are of the version before until the upload has arrived.
    #[serde(flatten)]
    pub file: File,
    /// Send the bytes with this.
    pub upload: SignedRequest,
}

/// A file with the request that downloads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Download {
    /// The file.
    #[serde(flatten)]
    pub file: File,
    /// Gets the bytes; `null` while the first upload has not arrived.
    pub download: Option<SignedRequest>,
}
