//! `read_file`, `write_file`, `edit_file`, `list_directory`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunAs;

/// How the bytes of a file are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// The text itself.
    #[default]
    #[serde(rename = "utf-8", alias = "utf8", alias = "text")]
    Utf8,
    /// Base64, for bytes that are not text.
    #[serde(rename = "base64")]
    Base64,
}

/// Arguments of `read_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadFileArgs {
    /// File to read: absolute, or relative to /workspace.
    pub path: String,
    /// First line to return, counted from 1. Default: 1.
    pub start_line: Option<u64>,
    /// Last line to return, included. Default: the end, or as far as the size limit of an answer allows.
    pub end_line: Option<u64>,
    /// `utf-8` or `base64`. Default: text as it is, and bytes that are not text as base64.
    pub encoding: Option<Encoding>,
    /// Account to read as: `user` (the default) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// What `read_file` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadFileOutput {
    /// Absolute path.
    pub path: String,
    /// The lines asked for, or the bytes in base64.
    pub content: String,
    /// How `content` is written.
    pub encoding: Encoding,
    /// Size of the whole file in bytes.
    pub size: u64,
    /// SHA-256 of the whole file in hex; give it to write_file as if_sha256 to be sure that nobody changed the file
    /// in between. Absent for files that are too large to be read as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// First line in `content`, counted from 1; 0 for base64 and empty files.
    pub start_line: u64,
    /// Last line in `content`.
    pub end_line: u64,
    /// Number of lines of the whole file, where it was read as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_lines: Option<u64>,
    /// Whether the file goes on after `content`.
    pub truncated: bool,
    /// Permission bits in octal, such as 0644.
    pub mode: String,
    /// Owner and group, such as user:user.
    pub owner: String,
    /// When it last changed.
    pub modified_at: String,
}

/// Arguments of `write_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteFileArgs {
    /// File to write: absolute, or relative to /workspace. Missing parent directories are made.
    pub path: String,
    /// The whole new content, or with append what is added. At most 4 MiB.
    pub content: String,
    /// How `content` is written: `utf-8` (the default) or `base64` for bytes that are not text.
    #[serde(default)]
    pub encoding: Encoding,
    /// Permission bits in octal, such as 0755 for a script. Default: kept, or 0644 for a new file.
    pub mode: Option<String>,
    /// Owner, or owner:group, to give the file to. Default: kept, or the account that writes.
    pub owner: Option<String>,
    /// Add to the end instead of replacing the content. Default: false.
    #[serde(default)]
    pub append: bool,
    /// Write only if the file still has this SHA-256 (as read_file answered), or `absent` to write only a new file.
    /// Default: write whatever is there.
    pub if_sha256: Option<String>,
    /// Account to write as: `user` (the default) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// Arguments of `edit_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditFileArgs {
    /// Text file to change: absolute, or relative to /workspace.
    pub path: String,
    /// Text to replace, exactly as it is in the file, whitespace and line breaks included. It must occur exactly
    /// once, unless replace_all is true: give enough lines around it.
    #[serde(alias = "old_text", alias = "old_str")]
    pub old_string: String,
    /// Text to put in its place; empty to delete.
    #[serde(alias = "new_text", alias = "new_str")]
    pub new_string: String,
    /// Replace every occurrence instead of exactly one. Default: false.
    #[serde(default)]
    pub replace_all: bool,
    /// Account to edit as: `user` (the default) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// What `write_file` and `edit_file` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WriteFileOutput {
    /// Absolute path of what was written, symbolic links followed.
    pub path: String,
    /// Whether the file is new.
    pub created: bool,
    /// Whether its content differs from before.
    pub changed: bool,
    /// Its size in bytes now.
    pub size: u64,
    /// Its SHA-256 now, in hex.
    pub sha256: String,
    /// Its permission bits in octal, such as 0644.
    pub mode: String,
    /// Its owner and group, such as user:user.
    pub owner: String,
    /// Occurrences that edit_file replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacements: Option<u64>,
    /// Whose work this replaced, where somebody else wrote the file moments before and no version was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_work_of: Option<String>,
    /// What changed, as a unified diff; cut where it is long, absent for new and binary files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// Arguments of `list_directory`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListDirectoryArgs {
    /// Directory to list: absolute, or relative to /workspace. Default: /workspace.
    pub path: Option<String>,
    /// Levels to go down, 1 to 8. Default: 1, the directory itself.
    pub depth: Option<u32>,
    /// Show names that start with a dot. Default: false.
    #[serde(default)]
    pub hidden: bool,
    /// Show only entries that match this pattern, such as `*.py` or `src/**/*.ts`. A pattern without a slash is
    /// compared with the name, one with a slash with the path below the directory.
    pub glob: Option<String>,
    /// Most entries to return, 1 to 1000. Default: 300.
    pub limit: Option<usize>,
    /// Account to list as: `user` (the default) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirectoryEntry {
    /// Path below the listed directory.
    pub path: String,
    /// `file`, `directory` or `symlink`.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits in octal, such as 0644.
    pub mode: String,
    /// Owner and group, such as user:user.
    pub owner: String,
    /// When it last changed.
    pub modified_at: String,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What `list_directory` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListDirectoryOutput {
    /// Absolute path of the directory.
    pub path: String,
    /// Its entries in order of path.
    pub entries: Vec<DirectoryEntry>,
    /// Number of entries that match, also those not shown.
    pub total: u64,
    /// Whether some are not shown.
    pub truncated: bool,
}
