//! `execute_command`, `get_command`, `kill_command`.

use pvm_domain::command::CommandStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunAs;

/// Arguments of `execute_command`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteCommandArgs {
    /// Shell line, run by `bash -l -c`. May use pipes, `&&`, heredocs and several lines.
    pub command: String,
    /// Directory to run in: absolute, or relative to /workspace. Default: /workspace. Nothing is kept from one call
    /// to the next, so `cd` in an earlier call has no effect.
    pub working_dir: Option<String>,
    /// Environment variables for this command, each as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Text that the command reads on its standard input. Default: empty input.
    pub stdin: Option<String>,
    /// Seconds until the command is killed, 1 to 86400. Default: 60, or 86400 in the background.
    pub timeout_secs: Option<u64>,
    /// Return at once while the command goes on running; look at it later with get_command. Default: false. For
    /// servers that should come back after a restart use start_service instead.
    #[serde(default)]
    pub background: bool,
    /// Account to run as: `user` (the default, has passwordless sudo) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// Arguments of `get_command`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetCommandArgs {
    /// The `command_id` that an earlier tool call answered.
    pub command_id: String,
    /// Seconds to wait for its end before answering, 0 to 20. Default: 0.
    pub wait_secs: Option<u64>,
    /// Byte of standard output to read on from: the `next_offset` of the last answer. Default: the beginning, and
    /// then long output is shown as its head and tail.
    pub offset: Option<u64>,
}

/// Arguments of `kill_command`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KillCommandArgs {
    /// The `command_id` that an earlier tool call answered.
    pub command_id: String,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandOutput {
    /// Its id; get_command and kill_command take it.
    pub command_id: String,
    /// `running`, `exited`, `timed_out`, `killed`, or `lost` (its VM went away, so its outcome is unknown; it was not
    /// run again).
    pub status: CommandStatus,
    /// Exit code, if it exited. 0 means success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Standard output; head and tail where it is long.
    pub stdout: String,
    /// Standard error; head and tail where it is long.
    pub stderr: String,
    /// Whether something was cut out of stdout or stderr here.
    pub truncated: bool,
    /// File in the VM with all of standard output, if it was cut here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_path: Option<String>,
    /// File in the VM with all of standard error, if it was cut here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_path: Option<String>,
    /// Byte of standard output to read on from with get_command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u64>,
    /// Milliseconds it ran, or has run so far.
    pub duration_ms: u64,
}
