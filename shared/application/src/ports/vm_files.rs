//! Files inside a VM.

use std::future::Future;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ByteStream;
use super::vm::VmError;

/// An entry of a directory or of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmEntry {
    /// Path, absolute for listings, relative to the workspace for scans.
    pub path: String,
    /// Its last name.
    pub name: String,
    /// `file`, `directory` or `symlink`.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner's name.
    pub owner: String,
    /// Group's name.
    pub group: String,
    /// Time of last change, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// SHA-256 of the bytes, where asked for.
    pub sha256: Option<String>,
    /// Where a symlink points.
    pub symlink_target: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Something of a scan that cannot be read, or whose name is no text: only its path is known, as well as it can be
    /// shown.
    Unreadable,
}

/// What an entry of the workspace is to be.
pub enum NewContent {
    /// A file of these bytes.
    Bytes(Bytes),
    /// A file of `size` bytes that come as a stream.
    Stream {
        /// Bytes.
        size: u64,
        /// The bytes.
        bytes: ByteStream,
    },
    /// A symbolic link to this target.
    Link(String),
    /// Whatever it is, with other permission bits.
    Mode,
}

/// An entry of the workspace that is to be made.
#[derive(Debug)]
pub struct NewEntry {
    /// Its path, relative to the workspace.
    pub path: String,
    /// Permission bits; those of a link are not set.
    pub mode: u32,
    /// What it is to be.
    pub content: NewContent,
}

impl std::fmt::Debug for NewContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream { size, .. } => write!(f, "a stream of {size} bytes"),
            Self::Link(target) => write!(f, "-> {target}"),
            Self::Mode => f.write_str("permission bits"),
        }
    }
}

/// Works with files inside a VM. Paths are absolute; `user` is `user` or `root`.
pub trait VmFiles: Send + Sync {
    /// Reads a whole file, refused when it is longer than `most` bytes.
    fn read_file(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        most: u64,
    ) -> impl Future<Output = Result<Bytes, VmError>> + Send;
    /// Reads a file as a stream, with its size.
    fn read_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
    ) -> impl Future<Output = Result<(u64, ByteStream), VmError>> + Send;
    /// Writes a file, its parents included.
    fn write_file(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Writes a file from a stream of `size` bytes with bounded memory.
    fn write_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        size: u64,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// An entry's facts; `None` where there is none.
    fn stat(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
    ) -> impl Future<Output = Result<Option<VmEntry>, VmError>> + Send;
    /// Entries of a directory down to `depth` levels (1 is the directory itself).
    fn list_dir(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        depth: u32,
    ) -> impl Future<Output = Result<Vec<VmEntry>, VmError>> + Send;
    /// Removes a file or a whole directory; a missing one is fine.
    fn remove(&self, vm_id: &str, path: &str, user: &str)
    -> impl Future<Output = Result<(), VmError>> + Send;
    /// Reads small files below the workspace by their relative paths, in this order. `None` for one that is not there, is
    /// no regular file, or has more than `most` bytes.
    fn read_many(
        &self,
        vm_id: &str,
        paths: &[String],
        most: u64,
    ) -> impl Future<Output = Result<Vec<Option<Bytes>>, VmError>> + Send {
        async move {
            let mut found = Vec::with_capacity(paths.len());
            for path in paths {
                let path = format!("{}/{path}", pvm_domain::file::WORKSPACE);
                match self.read_file(vm_id, &path, "root", most).await {
                    Ok(bytes) => found.push(Some(bytes)),
                    Err(VmError::NotFound(_) | VmError::Refused(_)) => found.push(None),
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        }
    }
    /// Whether there is a regular file at each of these paths, relative to the workspace.
    fn present(
        &self,
        vm_id: &str,
        paths: &[String],
    ) -> impl Future<Output = Result<Vec<bool>, VmError>> + Send {
        async move {
            let mut found = Vec::with_capacity(paths.len());
            for path in paths {
                let path = format!("{}/{path}", pvm_domain::file::WORKSPACE);
                let entry = self.stat(vm_id, &path, "root").await?;
                found.push(entry.is_some_and(|entry| entry.kind == EntryKind::File));
            }
            Ok(found)
        }
    }
    /// Makes entries below the workspace, in this order, owned by `user`, each whole or not at all, with the folders
    /// above them. Answers for each the reason why it could not be made; one that cannot does not stop the others.
    fn write_many(
        &self,
        vm_id: &str,
        entries: Vec<NewEntry>,
    ) -> impl Future<Output = Result<Vec<Option<String>>, VmError>> + Send {
        async move {
            let mut failures = Vec::with_capacity(entries.len());
            for entry in entries {
                let path = format!("{}/{}", pvm_domain::file::WORKSPACE, entry.path);
                let written = match entry.content {
                    NewContent::Bytes(bytes) => self.write_file(vm_id, &path, "user", bytes).await,
                    NewContent::Stream { size, bytes } => {
                        self.write_file_stream(vm_id, &path, "user", size, bytes).await
                    }
                    NewContent::Link(_) | NewContent::Mode => {
                        Err(VmError::Refused("this VM takes neither links nor permission bits".to_owned()))
                    }
                };
                failures.push(match written {
                    Ok(()) => None,
                    Err(VmError::Refused(why) | VmError::NotFound(why)) => Some(why),
                    Err(error) => return Err(error),
                });
            }
            Ok(failures)
        }
    }
    /// Everything below the workspace that is saved (`.pvmignore` and the default ignores left out), with hashes.
    fn scan_workspace(&self, vm_id: &str) -> impl Future<Output = Result<Vec<VmEntry>, VmError>> + Send;
}
