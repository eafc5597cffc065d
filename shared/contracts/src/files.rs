//! Files on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pvm_domain::archive::ArchiveStatus;
use pvm_domain::file::{DeletedFile, FileVersion, ProjectFile, SyncStatus, WorkspacePath};
use pvm_domain::ids::{ArchiveId, FileId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// JSON body of `POST /api/projects/{project_id}/files`: asks for an upload straight to the file store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUpload {
    /// Where the file goes in the workspace; at most 1,000 bytes.
    #[schemars(length(min = 1))]
    pub path: String,
    /// Its exact size in bytes, at most 20 GiB; above 5 GiB it is sent in parts.
    #[schemars(range(max = 21_474_836_480_u64))]
    pub size: u64,
    /// SHA-256 of its bytes, 64 lower-case hex digits; checked by the store where given.
    #[serde(default)]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Permission bits as an octal text such as `"755"`; absent keeps the file's, or 644 for a new one.
    #[serde(default)]
    #[schemars(regex(pattern = "^0?[0-7]{3}$"))]
    pub mode: Option<String>,
    /// Whether it is sent in parts although it is small enough for one request: parts can be sent side by side and again.
    #[serde(default)]
    pub in_parts: bool,
}

/// Body of `POST /api/projects/{project_id}/files/{file_id}/upload`: completes an upload in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteUpload {
    /// Every part, in order.
    #[schemars(length(min = 1, max = 500))]
    pub parts: Vec<CompletedPart>,
}

/// A part that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletedPart {
    /// Its number, from 1.
    #[schemars(range(min = 1, max = 500))]
    pub part_number: u32,
    /// The `ETag` header of the answer to it.
    #[schemars(length(min = 1, max = 200))]
    pub etag: String,
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
    /// When it was found that the VM deleted it; `null` for a file that is there.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub deleted_at: Option<Timestamp>,
    /// Counts the changes of the record; the `ETag`.
    pub version: u64,
}

impl From<DeletedFile> for File {
    fn from(deleted: DeletedFile) -> Self {
        Self { deleted_at: Some(deleted.deleted_at), version: deleted.version, ..Self::from(deleted.file) }
    }
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
            deleted_at: None,
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
    /// Send the bytes with this; `null` where they are sent in parts.
    pub upload: Option<SignedRequest>,
    /// Send the bytes with these, then complete the upload; `null` where they are sent whole.
    pub parts: Option<UploadParts>,
}

/// The requests that upload a file in parts, in any order or side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UploadParts {
    /// Bytes of each part but the last.
    pub part_size: u64,
    /// The request for each part, part 1 first. The answer to each has an `ETag`, which completes the upload.
    pub requests: Vec<SignedRequest>,
}

/// A version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Its number; later ones are higher.
    pub number: u64,
    /// Where the file was then.
    pub path: WorkspacePath,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Option<String>,
    /// Permission bits as an octal text.
    pub mode: String,
    /// Whether it is the current one; a file that the VM deleted has none.
    pub current: bool,
    /// When it became current.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
}

impl Version {
    /// A version as it is shown.
    pub fn new(version: FileVersion, current: bool) -> Self {
        Self {
            number: version.number,
            path: version.path,
            size: version.size,
            sha256: version.sha256,
            mode: format!("{:03o}", version.mode & 0o777),
            current,
            created_at: version.created_at,
        }
    }
}

/// A version with the request that downloads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionDownload {
    /// The version.
    #[serde(flatten)]
    pub version: Version,
    /// Gets the bytes.
    pub download: SignedRequest,
}

/// An archive of all files of a project, as `tar.zst`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Archive {
    /// Its id.
    pub archive_id: ArchiveId,
    /// How it stands.
    pub status: ArchiveStatus,
    /// Why it failed.
    pub reason: Option<String>,
    /// Files and links in it, once it is ready.
    pub entries: Option<u64>,
    /// Its size in bytes, once it is ready.
    pub size: Option<u64>,
    /// SHA-256 of its bytes, once it is ready.
    pub sha256: Option<String>,
    /// When it was asked for.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When it is forgotten.
    #[schemars(schema_with = "crate::time::time")]
    pub expires_at: Timestamp,
    /// Gets the bytes; `null` until it is ready.
    pub download: Option<SignedRequest>,
}

impl Archive {
    /// An archive as it is shown.
    pub fn new(archive: pvm_domain::archive::Archive, download: Option<SignedRequest>) -> Self {
        let ready = archive.status == ArchiveStatus::Ready;
        Self {
            expires_at: archive.expires_at(),
            archive_id: archive.archive_id,
            status: archive.status,
            reason: archive.reason,
            entries: ready.then_some(archive.entries),
            size: ready.then_some(archive.size),
            sha256: archive.sha256,
            created_at: archive.created_at,
            download,
        }
    }
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
