//! What the sandbox server tells the in-VM daemon when it starts it as PID 1, over one inherited socket.
//!
//! The server writes [`Launch`] as one JSON document, framed by its length as a big-endian `u32`, and sends the
//! descriptors named in [`Launch::attach`] plus the two listeners beside it (`SCM_RIGHTS`). The daemon answers
//! one byte: [`READY`], or [`FAILED`] followed by a sentence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answer of the daemon: the sandbox is set up and its listeners are open.
pub const READY: u8 = b'R';
/// Answer of the daemon: setting up failed; the rest of the message says why.
pub const FAILED: u8 = b'F';
/// Largest [`Launch`] document in bytes; bounds what either side allocates for it.
pub const MAX_LAUNCH_BYTES: usize = 1024 * 1024;
/// Most descriptors sent beside a [`Launch`].
pub const MAX_LAUNCH_FDS: usize = 16;

/// Everything PID 1 must know to build the sandbox around itself and to serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// New for every cold start of the sandbox; the run journal tells by it that a process cannot be alive.
    pub boot_id: String,
    /// Host name inside.
    pub hostname: String,
    /// Absolute path inside for each mount descriptor sent, in that order; the first is `/`.
    pub attach: Vec<String>,
    /// Resource limits that the daemon reports in its metrics.
    pub limits: LaunchLimits,
    /// Variables every process gets, below the sandbox's own ones; not shown by `GET /envs`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Body of `POST /init`, applied at start.
    #[serde(default)]
    pub init: Value,
    /// Path inside of the unix socket that leads to the egress proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_socket: Option<String>,
    /// When the sandbox's time is over, in Unix milliseconds; the daemon ends itself some time after it when no
    /// server came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at_unix_ms: Option<u64>,
    /// Present when no mounts are sent: the daemon makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_root: Option<OwnRoot>,
}

/// A root that the daemon puts together itself, since the server of a plain user cannot. All paths but targets are the
/// host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnRoot {
    /// Overlays; the first one's target is `/`.
    pub overlays: Vec<OwnOverlay>,
    /// Folders of the host that are shown read-only.
    pub views: Vec<OwnView>,
    /// There is one id inside only: changes of owner and user are answered with success and not done.
    pub single_id: bool,
}

/// One overlay of an [`OwnRoot`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnOverlay {
    /// Absolute path inside.
    pub target: String,
    /// Read-only folders, the topmost first.
    pub lower: Vec<String>,
    /// The sandbox's own folder.
    pub upper: String,
    /// Scratch folder on the same file system.
    pub work: String,
}

/// A folder of the host shown in an [`OwnRoot`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnView {
    /// Absolute path inside.
    pub target: String,
    /// The folder.
    pub source: String,
}

/// Limits of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchLimits {
    /// CPUs it may use.
    pub cpu_count: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    /// Disk in MiB.
    #[serde(rename = "diskSizeMB")]
    pub disk_mb: u64,
    /// Processes and threads.
    pub pids: u64,
}
