//! Messages of the `filesystem.Filesystem` Connect service.
//!
//! Methods: `Stat`, `MakeDir`, `Move`, `ListDir`, `Remove`, `CreateWatcher`, `GetWatcherEvents`,
//! `RemoveWatcher` (unary) and `WatchDir` (server stream of [`WatchDirResponse`]).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::process::Empty;
use crate::proto_json::{int64, is_default, null_default, proto_enum};

/// Path prefix of the service; a method is `/filesystem.Filesystem/<Method>`.
pub const SERVICE: &str = "/filesystem.Filesystem/";

proto_enum! {
    /// Kind of a directory entry.
    pub enum FileType {
        /// None of the others: a device, a socket, a pipe.
        #[default]
        Unspecified = 0 => "FILE_TYPE_UNSPECIFIED",
        /// A regular file.
        File = 1 => "FILE_TYPE_FILE",
        /// A directory.
        Directory = 2 => "FILE_TYPE_DIRECTORY",
        /// A symbolic link.
        Symlink = 3 => "FILE_TYPE_SYMLINK",
    }
}

proto_enum! {
    /// Kind of a change in a watched directory.
    pub enum EventType {
        /// Not known to this version.
        #[default]
        Unspecified = 0 => "EVENT_TYPE_UNSPECIFIED",
        /// An entry appeared.
        Create = 1 => "EVENT_TYPE_CREATE",
        /// A file's content changed.
        Write = 2 => "EVENT_TYPE_WRITE",
        /// An entry was removed.
        Remove = 3 => "EVENT_TYPE_REMOVE",
        /// An entry got another name or place (told at its old name).
        Rename = 4 => "EVENT_TYPE_RENAME",
        /// An entry's mode, owner or times changed.
        Chmod = 5 => "EVENT_TYPE_CHMOD",
    }
}

/// A file, directory or link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryInfo {
    /// Last component of its path.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its kind; of a link, the kind of what it points to.
    #[serde(rename = "type", deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub file_type: FileType,
    /// Absolute path, or relative to the base that was asked for.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Size in bytes.
    #[serde(with = "int64", skip_serializing_if = "is_default")]
    pub size: i64,
    /// Permission bits (0 to 0o7777).
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub mode: u32,
    /// The same as text: `-rw-r--r--`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub permissions: String,
    /// Owner's name, or number when it has none.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Group's name, or number when it has none.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Time of the last change of content.
    #[serde(alias = "modified_time", skip_serializing_if = "Option::is_none")]
    pub modified_time: Option<Timestamp>,
    /// Where a link points to.
    #[serde(alias = "symlink_target", skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// Values of the extended attributes `user.e2b.<key>`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Request of `Stat`, `MakeDir` and `Remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathRequest {
    /// Absolute, `~`, or relative to the user's home.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub path: String,
}

impl PathRequest {
    /// Names a path.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into() }
    }
}

/// Request of `Stat`.
pub type StatRequest = PathRequest;
/// Request of `MakeDir`.
pub type MakeDirRequest = PathRequest;
/// Request of `Remove`.
pub type RemoveRequest = PathRequest;

/// Answer of `Stat`, `MakeDir` and `Move`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntryResponse {
    /// The entry.
    pub entry: EntryInfo,
}

/// Request of `Move`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveRequest {
    /// What to move.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Its new path; missing parents are made.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub destination: String,
}

/// Request of `ListDir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListDirRequest {
    /// The directory.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// How many levels; 0 means 1.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub depth: u32,
}

/// Answer of `ListDir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListDirResponse {
    /// The entries.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<EntryInfo>,
}

/// Request of `WatchDir` and `CreateWatcher`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchDirRequest {
    /// The directory.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Whether directories below count, including ones made later.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub recursive: bool,
    /// Whether events carry the entry they are about.
    #[serde(alias = "include_entry", deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub include_entry: bool,
    /// Whether a directory on a network mount, whose changes elsewhere go unseen, may be watched.
    #[serde(
        alias = "allow_network_mounts",
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub allow_network_mounts: bool,
}

/// Request of `CreateWatcher`.
pub type CreateWatcherRequest = WatchDirRequest;

/// One message of the stream of `WatchDir`; exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchDirResponse {
    /// First message: the watch is in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Empty>,
    /// A change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemEvent>,
    /// Nothing happened for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Empty>,
}

impl WatchDirResponse {
    /// The first message.
    pub fn started() -> Self {
        Self { start: Some(Empty {}), ..Self::default() }
    }

    /// A change.
    pub fn event(event: FilesystemEvent) -> Self {
        Self { filesystem: Some(event), ..Self::default() }
    }

    /// A sign of life.
    pub fn keepalive() -> Self {
        Self { keepalive: Some(Empty {}), ..Self::default() }
    }
}

/// A change in a watched directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemEvent {
    /// Path relative to the watched directory.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What happened.
    #[serde(rename = "type", deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub event_type: EventType,
    /// The entry, when asked for and still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryInfo>,
}

/// Answer of `CreateWatcher`; request of `GetWatcherEvents` and `RemoveWatcher`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatcherRef {
    /// The watcher's id.
    #[serde(
        alias = "watcher_id",
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub watcher_id: String,
}

/// Answer of `GetWatcherEvents`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatcherEvents {
    /// What happened since the last call.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<FilesystemEvent>,
}
