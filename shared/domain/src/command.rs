//! Commands: shell lines that run in a project's VM, each at most once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{CommandId, ProjectId};
use crate::{Invalid, file::WORKSPACE, limits, text};

/// A command's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandStatus {
    /// Accepted and not ended (it may still wait for its VM).
    Running,
    /// Its shell ended by itself; see the exit code or signal.
    Exited,
    /// Its time ran out and it was killed.
    TimedOut,
    /// It was killed on request.
    Killed,
    /// Its VM went away while it ran: nobody can know its outcome, and it is not run again.
    Lost,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// The shell line, given to `bash -l -c`.
    pub command: String,
    /// Absolute directory inside the VM.
    pub working_dir: String,
    /// Environment besides the project's.
    pub env: BTreeMap<String, String>,
    /// What it reads on standard input; none means an empty input.
    pub stdin: Option<String>,
    /// `user` or `root`.
    pub user: String,
    /// Seconds until it is killed.
    pub timeout_secs: u64,
}

impl CommandSpec {
    /// A command with all defaults.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            working_dir: WORKSPACE.to_owned(),
            env: BTreeMap::new(),
            stdin: None,
            user: "user".to_owned(),
            timeout_secs: limits::COMMAND_TIMEOUT_DEFAULT_SECS,
        }
    }

    /// Checks every field; a relative `working_dir` is taken from the workspace.
    ///
    /// # Errors
    /// Names the field and its rule.
    pub fn checked(mut self) -> Result<Self, Invalid> {
        if self.command.trim().is_empty() {
            return Err(Invalid::new("command", "must not be empty"));
        }
        if self.command.len() > limits::COMMAND_BYTES {
            return Err(Invalid::new("command", "must have at most 131,008 bytes; upload a script instead"));
        }
        if self.command.contains('\0') {
            return Err(Invalid::new("command", "must not contain a NUL byte"));
        }
        self.working_dir = directory("working_dir", &self.working_dir)?;
        if self.user != "user" && self.user != "root" {
            return Err(Invalid::new("user", "must be \"user\" or \"root\""));
        }
        if !(1..=limits::COMMAND_TIMEOUT_MAX_SECS).contains(&self.timeout_secs) {
            return Err(Invalid::new("timeout_secs", "must be 1 to 86400"));
        }
        if self.stdin.as_ref().is_some_and(|text| text.len() > limits::JSON_BODY_BYTES / 2) {
            return Err(Invalid::new("stdin", "must have at most 512 KiB; upload a file instead"));
        }
        text::env("env", &self.env)?;
        Ok(self)
    }
}

/// Checks a directory inside the VM: absolute, or relative to the workspace.
///
/// # Errors
/// Names `field` and its rule.
pub fn directory(field: &str, text: &str) -> Result<String, Invalid> {
    if text.contains('\0') || text.len() > 4096 {
        return Err(Invalid::new(field, "must have at most 4,096 bytes and no NUL"));
    }
    match text.trim() {
        "" => Ok(WORKSPACE.to_owned()),
        absolute if absolute.starts_with('/') => Ok(absolute.to_owned()),
        relative => Ok(format!("{WORKSPACE}/{relative}")),
    }
}

/// One output stream of an ended command, as kept in the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOutput {
    /// Head and tail, invalid UTF-8 replaced.
    pub text: String,
    /// Bytes that the command wrote.
    pub total_bytes: u64,
    /// Whether `text` is not the whole.
    pub truncated: bool,
    /// S3 key of the whole (up to 8 MiB), where it is more than `text`.
    pub object_key: Option<String>,
}

/// A command of a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The project.
    pub project_id: ProjectId,
    /// Its id; also its directory's name in the VM's run journal.
    pub command_id: CommandId,
    /// What to run.
    pub spec: CommandSpec,
    /// Its state.
    pub status: CommandStatus,
    /// The epoch of the VM it was given to; `None` while it waits for one. Set before it is started.
    pub epoch: Option<u64>,
    /// Whether a kill was asked for before or while it ran.
    pub kill_requested: bool,
    /// Exit code, where it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended it, such as 9.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: KeptOutput,
    /// Standard error.
    pub stderr: KeptOutput,
    /// Milliseconds from start to end, as the VM measured.
    pub duration_ms: Option<u64>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its end was noted.
    pub finished_at: Option<Timestamp>,
    /// Counts the changes of this record.
    pub version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_checked_field_by_field() {
        let ok = CommandSpec::new("true").checked().unwrap();
        assert_eq!(ok.working_dir, "/workspace");
        let field = |spec: CommandSpec| spec.checked().unwrap_err().field;
        assert_eq!(field(CommandSpec::new("  ")), "command");
        assert_eq!(field(CommandSpec { timeout_secs: 0, ..CommandSpec::new("x") }), "timeout_secs");
        assert_eq!(field(CommandSpec { user: "bob".into(), ..CommandSpec::new("x") }), "user");
        assert_eq!(
            CommandSpec { working_dir: "app".into(), ..CommandSpec::new("x") }.checked().unwrap().working_dir,
            "/workspace/app"
        );
    }
}
