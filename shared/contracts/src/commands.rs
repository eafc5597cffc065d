//! Commands on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pvm_domain::command::CommandStatus;
use pvm_domain::ids::CommandId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/projects/{project_id}/vm/command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// The shell line, for `bash -l -c`; at most 131,008 bytes.
    #[schemars(length(min = 1))]
    pub command: String,
    /// Where it runs; relative paths are taken from `/workspace`, which is also the default.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Environment besides the project's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it reads on standard input; at most 512 KiB.
    #[serde(default)]
    pub stdin: Option<String>,
    /// As whom it runs: `user` (default, may use sudo) or `root`.
    #[serde(default)]
    pub user: Option<String>,
    /// Seconds until it is killed, 1 to 86400; absent means 60.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_secs: Option<u64>,
    /// Whether to answer at once, without waiting for its end.
    #[serde(default)]
    pub background: bool,
    /// Seconds to wait for its end (the VM's start included), 0 to 25; absent means 25.
    #[serde(default)]
    #[schemars(range(max = 25))]
    pub wait_secs: Option<u64>,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Command {
    /// Its id.
    pub command_id: CommandId,
    /// The shell line.
    pub command: String,
    /// Where it runs.
    pub working_dir: String,
    /// As whom it runs.
    pub user: String,
    /// How it stands.
    pub status: CommandStatus,
    /// Exit code, where it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended it, such as 9.
    pub signal: Option<i32>,
    /// Standard output (from `stdout_offset` where one was asked for), invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// The offset in bytes to ask standard output from next time.
    pub stdout_next: u64,
    /// The offset in bytes to ask standard error from next time.
    pub stderr_next: u64,
    /// Whether output was left out (cut in its middle, or more than one answer holds).
    pub truncated: bool,
    /// Milliseconds it ran.
    pub duration_ms: Option<u64>,
    /// When it was accepted.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When its end was noted.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub finished_at: Option<Timestamp>,
}

/// Which of a command's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Data of an `output` event of a streamed command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandOutput {
    /// Which stream.
    pub stream: OutputStream,
    /// The piece, invalid UTF-8 replaced.
    pub data: String,
    /// Where the piece starts in its stream, in bytes.
    pub offset: u64,
}
