//! The workspace: what is in a directory tree, with hashes (unary Connect-JSON), and many files of it in one request.
//! Our own extension.

use serde::{Deserialize, Serialize};

use crate::proto_json::{int64, is_default, null_default};

/// Path prefix of the service; the methods are `Scan`, `Read` and `Write`.
pub const SERVICE: &str = "/pvm.Workspace/";

/// Name of the ignore file when the request names none; gitignore syntax, honoured in every directory.
pub const DEFAULT_IGNORE_FILE: &str = ".pvmignore";

/// Most entries of one answer. More set `truncated`.
pub const MAX_ENTRIES: usize = 200_000;

/// Request of `Scan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScanRequest {
    /// The directory.
    pub root: String,
    /// Name of the ignore files; absent means [`DEFAULT_IGNORE_FILE`].
    #[serde(alias = "ignore_file", skip_serializing_if = "Option::is_none")]
    pub ignore_file: Option<String>,
    /// Ignore patterns that an ignore file may take back, in gitignore syntax.
    #[serde(
        alias = "default_ignores",
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub default_ignores: Vec<String>,
    /// Whether to hash regular files.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub hash: bool,
}

/// Kind of an entry. Devices, sockets and pipes are left out of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; never followed.
    Symlink,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanEntry {
    /// Relative to the root, with `/`. Names that are not UTF-8 are left out of a scan.
    pub path: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: ScanKind,
    /// Size in bytes; 0 for a directory.
    #[serde(default)]
    pub size: u64,
    /// Permission bits.
    #[serde(default)]
    pub mode: u32,
    /// Time of the last change of content, unix nanoseconds.
    #[serde(with = "int64")]
    pub mtime_ns: i64,
    /// Lower-case hex; only of regular files, when asked for. Absent when the file changed while being read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}

/// Answer of `Scan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScanResponse {
    /// Sorted by path.
    pub entries: Vec<ScanEntry>,
    /// Whether there were more than [`MAX_ENTRIES`].
    pub truncated: bool,
    /// Paths that could not be read or named, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// How the names of files start that are being written; a scan passes them over.
pub const UNFINISHED: &str = ".pvm-unfinished-";

/// Bytes of files that one answer of `Read` holds at most.
pub const MAX_READ_BYTES: u64 = 8 * 1024 * 1024;

/// The longest head of an entry of `Write`, in bytes: a path and a link's target, both escaped.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Request of `Read`. The answer has for each path, in this order, a [`ReadHead`] as one line of JSON and the file's bytes
/// behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadRequest {
    /// The directory.
    pub root: String,
    /// Paths relative to it.
    pub paths: Vec<String>,
    /// Only files of at most so many bytes; 0 asks only whether there is one.
    pub most: u64,
}

/// What stands before each file of an answer of `Read`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadHead {
    /// Whether there is a regular file.
    pub present: bool,
    /// How many bytes follow; absent where none do, because the file is longer than asked for or cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What an entry of `Write` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteKind {
    /// A file of the bytes that follow.
    File,
    /// A symbolic link.
    Link,
    /// Permission bits of the file that is there.
    Mode,
}

/// What stands before each entry of the body of `Write`, as one line of JSON. The directory is the parameter `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteHead {
    /// Path relative to the directory.
    pub path: String,
    /// What it is.
    pub kind: WriteKind,
    /// Permission bits; not those of a link.
    #[serde(default)]
    pub mode: u32,
    /// How many bytes follow.
    #[serde(default)]
    pub size: u64,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Answer of `Write`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriteResponse {
    /// For each entry the reason why it was not made; `null` where it was.
    pub failures: Vec<Option<String>>,
}
