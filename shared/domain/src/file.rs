//! Files of a project: paths below the workspace, records, versions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fair_use::Counted;
use crate::ids::{FileId, OwnerId, ProjectId};
use crate::{Invalid, limits};

/// Where the workspace is inside the VM.
pub const WORKSPACE: &str = "/workspace";

/// A file's path relative to the workspace: UTF-8, at most 1,000 bytes, `/` between names, no `..`, no NUL, no
/// empty names.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct WorkspacePath(String);

impl WorkspacePath {
    /// Reads a path as users write it: relative to the workspace, or absolute below `/workspace`.
    ///
    /// # Errors
    /// Says which rule of the path is broken; `field` is the name it came under.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let bad = |reason: &str| Err(Invalid::new(field, reason));
        if text.contains('\0') {
            return bad("must not contain a NUL byte");
        }
        let relative = match text.strip_prefix('/') {
            None => text,
            Some(_) => match text.strip_prefix(WORKSPACE).and_then(|rest| rest.strip_prefix('/')) {
                Some(rest) => rest,
                None => return bad("must be relative to the workspace, or absolute below /workspace"),
            },
        };
        let names: Vec<&str> = relative.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
        if names.is_empty() {
            return bad("must name a file");
        }
        if relative.ends_with('/') {
            return bad("must name a file, not a directory");
        }
        if names.contains(&"..") {
            return bad("must not contain `..`");
        }
        if names.iter().any(|name| name.len() > 255) {
            return bad("each name in it must have at most 255 bytes");
        }
        let joined = names.join("/");
        if joined.len() > limits::PATH_BYTES {
            return bad("must have at most 1,000 bytes");
        }
        Ok(Self(joined))
    }

    /// The path relative to the workspace.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The absolute path inside the VM.
    pub fn in_vm(&self) -> String {
        format!("{WORKSPACE}/{}", self.0)
    }
}

impl std::fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the VM's copy equals the stored object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncStatus {
    /// The object is not in the VM yet (or not uploaded yet).
    Pending,
    /// Both sides are equal.
    Synced,
    /// The last try failed; it is tried again at the next upload or VM set-up.
    Failed,
}

/// A file of a project. The bytes are the immutable S3 object `p/<project>/<file_id>/<version>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectFile {
    /// The project.
    pub project_id: ProjectId,
    /// Its id, the same over all versions.
    pub file_id: FileId,
    /// Where it is in the workspace.
    pub path: WorkspacePath,
    /// Size in bytes of the current version.
    pub size: u64,
    /// SHA-256 of the bytes, lower-case hex; `None` until it is known (a presigned upload without one).
    pub sha256: Option<String>,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Number of the current version; 0 while the first upload has not arrived.
    pub object_version: u64,
    /// The version whose object holds the bytes, where the current one was restored from it. Objects are never copied:
    /// what was restored shares the object of what it was restored from.
    #[serde(default)]
    pub restored_from: Option<u64>,
    /// Uploads that were announced and have not arrived, oldest first.
    #[serde(default)]
    pub uploads: Vec<OpenUpload>,
    /// Whether the VM has it.
    pub sync_status: SyncStatus,
    /// Why the last sync failed.
    pub sync_error: Option<String>,
    /// What the VM had when both sides were last seen equal.
    pub vm_copy: Option<VmCopy>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When the bytes last changed.
    pub updated_at: Timestamp,
    /// The project's owner, in whose name its bytes are counted.
    #[serde(default)]
    pub owner: Option<OwnerId>,
    /// The bytes it is counted as.
    #[serde(default)]
    pub counted: Counted,
    /// Counts the changes of this record; the HTTP ETag.
    pub version: u64,
}

/// A file's bytes as a certain VM had them when they equalled the stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCopy {
    /// The VM.
    pub vm_id: String,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// Permission bits; `None` where they were not noted.
    #[serde(default)]
    pub mode: Option<u32>,
}

/// An upload that was announced: its version's number is taken, its object has not arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUpload {
    /// The version that it makes.
    pub version: u64,
    /// Size that was announced.
    pub size: u64,
    /// SHA-256 that was announced, lower-case hex: what arrives is refused unless it fits.
    pub sha256: Option<String>,
    /// Permission bits that the file gets with it.
    pub mode: u32,
    /// S3's id of an upload in parts.
    pub parts_id: Option<String>,
    /// When nobody waits for it any more.
    pub until: Timestamp,
}

impl ProjectFile {
    /// The bytes that it takes up of its owner's storage: those of the current version, and those announced.
    pub fn stored_bytes(&self) -> u64 {
        let current = if self.object_version > 0 { self.size } else { 0 };
        self.uploads.iter().fold(current, |sum, open| sum.saturating_add(open.size))
    }

    /// The S3 key of the current bytes.
    pub fn current_key(&self) -> String {
        object_key(&self.project_id, &self.file_id, self.restored_from.unwrap_or(self.object_version))
    }

    /// The number that the next version gets: above the current one and above every upload that was announced.
    pub fn next_version(&self) -> u64 {
        self.uploads.iter().map(|upload| upload.version).fold(self.object_version, u64::max) + 1
    }

    /// The current version as an earlier one, for when another takes its place; `None` where there is none yet.
    pub fn as_version(&self) -> Option<FileVersion> {
        (self.object_version > 0).then(|| FileVersion {
            project_id: self.project_id.clone(),
            file_id: self.file_id.clone(),
            number: self.object_version,
            object: self.restored_from.unwrap_or(self.object_version),
            path: self.path.clone(),
            size: self.size,
            sha256: self.sha256.clone(),
            mode: self.mode,
            created_at: self.updated_at,
            erasing: false,
            owner: self.owner.clone(),
            counted: Counted::default(),
            version: 0,
        })
    }
}

/// A file that the VM deleted, with everything that was known of it. It can be had back until it is forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeletedFile {
    /// The file as it was; its versions and objects are kept under its id.
    pub file: ProjectFile,
    /// When it was found to be gone.
    pub deleted_at: Timestamp,
    /// Whether it is being forgotten: from then on nobody finds it.
    pub erasing: bool,
    /// The bytes it is counted as.
    #[serde(default)]
    pub counted: Counted,
    /// Counts the changes of this record.
    pub version: u64,
}

impl DeletedFile {
    /// What is kept of `file`.
    pub fn of(file: ProjectFile, deleted_at: Timestamp) -> Self {
        Self { file, deleted_at, erasing: false, counted: Counted::default(), version: 0 }
    }

    /// The file as it comes back: at the path it had, with the bytes of `wanted` as a new version. No VM has it yet.
    pub fn restored(self, wanted: &FileVersion, now: Timestamp) -> ProjectFile {
        let object_version = self.file.next_version();
        ProjectFile {
            object_version,
            restored_from: Some(wanted.object),
            size: wanted.size,
            sha256: wanted.sha256.clone(),
            mode: wanted.mode,
            uploads: Vec::new(),
            sync_status: SyncStatus::Pending,
            sync_error: None,
            vm_copy: None,
            updated_at: now,
            counted: Counted::default(),
            version: 0,
            ..self.file
        }
    }
}

/// An earlier version of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileVersion {
    /// The project.
    pub project_id: ProjectId,
    /// The file.
    pub file_id: FileId,
    /// Its number.
    pub number: u64,
    /// Number of the object that holds its bytes: its own, or that of the version it was restored from.
    pub object: u64,
    /// Where the file was then.
    pub path: WorkspacePath,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: Option<String>,
    /// Permission bits.
    pub mode: u32,
    /// When it became current.
    pub created_at: Timestamp,
    /// Whether it is being forgotten: from then on nobody finds it, and its bytes may be gone.
    #[serde(default)]
    pub erasing: bool,
    /// The project's owner, in whose name its bytes are counted.
    #[serde(default)]
    pub owner: Option<OwnerId>,
    /// The bytes it is counted as.
    #[serde(default)]
    pub counted: Counted,
    /// Counts the changes of this record.
    pub version: u64,
}

/// A symbolic link of the workspace. It has no bytes, so no object: the record is all there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceLink {
    /// The project.
    pub project_id: ProjectId,
    /// Where it is in the workspace.
    pub path: WorkspacePath,
    /// Where it points, as it was written.
    pub target: String,
    /// The VM that was last seen to have it, and where it pointed there.
    pub vm_copy: Option<LinkCopy>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// A link as a certain VM had it when both sides were equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCopy {
    /// The VM.
    pub vm_id: String,
    /// Where it pointed.
    pub target: String,
}

/// That a VM has everything that is stored, shown by the hashes of all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The project.
    pub project_id: ProjectId,
    /// The VM.
    pub vm_id: String,
    /// Files in it.
    pub files: u64,
    /// Links in it.
    pub links: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// SHA-256 over its lines: `<sha256> <mode> <path>` for a file, `-> <target> <path>` for a link, sorted by path.
    pub sha256: String,
    /// When it was made.
    pub at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// What the project's VM has and the store cannot take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unstored {
    /// The project.
    pub project_id: ProjectId,
    /// How many files and links there are.
    pub total: u64,
    /// The paths of the first of them, as well as they can be shown.
    pub paths: Vec<String>,
    /// Counts the changes of this record.
    pub version: u64,
}

impl Unstored {
    /// Nothing.
    pub fn none(project_id: ProjectId) -> Self {
        Self { project_id, total: 0, paths: Vec::new(), version: 0 }
    }
}

/// The S3 key of one version of a file's bytes: `p/<project>/<file_id>/<version>`.
pub fn object_key(project: &ProjectId, file: &FileId, object_version: u64) -> String {
    format!("p/{project}/{file}/{object_version}")
}

/// Reads an S3 key made by [`object_key`]; `None` for any other key.
pub fn parse_object_key(key: &str) -> Option<(ProjectId, FileId, u64)> {
    let mut parts = key.strip_prefix("p/")?.split('/');
    let found = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(found)
}

/// What makes both sides of a file equal again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconcile {
    /// They are equal.
    Equal,
    /// The stored object is newer: write it into the VM.
    Push,
    /// The VM's bytes are newer: store them as a new version.
    Save,
    /// The VM deleted it, and nobody changed the stored object since: delete the record.
    Forget,
    /// Both changed: keep the VM's bytes beside it, then write the stored object into the VM.
    Conflict,
}

/// Decides about one file from three hashes: the stored object's, the VM's now (`None`: it has no such file), and what
/// the same VM had when both were last equal (`None`: it never had it).
pub fn reconcile(stored: &str, in_vm: Option<&str>, last_equal: Option<&str>) -> Reconcile {
    match (in_vm, last_equal) {
        (Some(vm), _) if vm == stored => Reconcile::Equal,
        (None, Some(base)) if base == stored => Reconcile::Forget,
        (None, _) => Reconcile::Push,
        (Some(vm), Some(base)) if base == vm => Reconcile::Push,
        (Some(_), Some(base)) if base == stored => Reconcile::Save,
        (Some(_), _) => Reconcile::Conflict,
    }
}

/// Points from a file's id to its path, so that a file can be found either way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilePointer {
    /// The project.
    pub project_id: ProjectId,
    /// The file.
    pub file_id: FileId,
    /// Where it is now.
    pub path: WorkspacePath,
    /// Counts the changes of this record.
    pub version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PrefixedId;

    #[test]
    fn a_deleted_file_comes_back_as_a_new_version_that_no_vm_has() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let upload = |version| OpenUpload {
            version,
            size: 9,
            sha256: None,
            mode: 0o644,
            parts_id: None,
            until: at(9),
        };
        let file = ProjectFile {
            project_id: ProjectId::from_parts(1, 2),
            file_id: FileId::from_parts(3, 4),
            path: WorkspacePath::parse("path", "a").unwrap(),
            size: 3,
            sha256: Some("cc".into()),
            mode: 0o755,
            object_version: 3,
            restored_from: None,
            uploads: vec![upload(5)],
            sync_status: SyncStatus::Synced,
            sync_error: None,
            vm_copy: Some(VmCopy { vm_id: "vm".into(), sha256: "cc".into(), mode: None }),
            created_at: at(0),
            updated_at: at(1),
            owner: None,
            counted: Counted::default(),
            version: 8,
        };
        let wanted = FileVersion { number: 2, object: 1, size: 1, ..file.as_version().unwrap() };
        let back = DeletedFile::of(file.clone(), at(2)).restored(&wanted, at(3));
        // The number of an upload that was announced and never came is not used again: its object may still come.
        assert_eq!((back.object_version, back.restored_from, back.size), (6, Some(1), 1));
        assert_eq!((&back.path, &back.file_id), (&file.path, &file.file_id));
        assert!(back.vm_copy.is_none() && back.uploads.is_empty());
        assert_eq!((back.sync_status, back.version), (SyncStatus::Pending, 0));
    }

    #[test]
    fn paths_are_normalised_and_confined() {
        let path = |text: &str| WorkspacePath::parse("path", text);
        assert_eq!(path("a/./b//c.txt").unwrap().as_str(), "a/b/c.txt");
        assert_eq!(path("/workspace/a").unwrap().in_vm(), "/workspace/a");
        for bad in
            ["", "/", ".", "..", "a/../b", "/etc/passwd", "/workspace", "/workspacex/a", "a\0b", "dir/"]
        {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        assert!(path(&"a/".repeat(500)).is_err());
        assert!(path(&format!("{}/x", "a".repeat(256))).is_err());
        assert!(path(&vec!["abc"; 250].join("/")).is_ok());
        assert!(path(&vec!["abcd"; 250].join("/")).is_err());
    }

    #[test]
    fn three_hashes_decide_what_makes_both_sides_equal() {
        let cases = [
            ("a", Some("a"), None, Reconcile::Equal),
            ("a", None, None, Reconcile::Push),
            ("a", None, Some("a"), Reconcile::Forget),
            ("b", None, Some("a"), Reconcile::Push),
            ("b", Some("a"), Some("a"), Reconcile::Push),
            ("a", Some("b"), Some("a"), Reconcile::Save),
            ("b", Some("c"), Some("a"), Reconcile::Conflict),
            ("a", Some("b"), None, Reconcile::Conflict),
        ];
        for (stored, vm, base, want) in cases {
            assert_eq!(reconcile(stored, vm, base), want, "{stored} {vm:?} {base:?}");
        }
    }

    #[test]
    fn an_object_key_reads_back() {
        let (project, file) = (ProjectId::from_parts(1, 2), FileId::from_parts(3, 4));
        assert_eq!(parse_object_key(&object_key(&project, &file, 7)), Some((project, file, 7)));
        assert_eq!(parse_object_key("p/x/y/1"), None);
    }
}
