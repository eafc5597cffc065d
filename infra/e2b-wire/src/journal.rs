//! The run journal: commands that are never run twice. Our own extension, unary Connect-JSON.
//!
//! A run is named by its caller. `Start` with a name that is there already starts nothing: it reports on the
//! run that was started then. A run is a directory in the sandbox (`/var/lib/pvm/runs/<run_id>`), so that it
//! outlives the daemon and the caller.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::process::{ProcessConfig, Signal};
use crate::proto_json::{base64_bytes, base64_option, is_default, null_default};

/// Path prefix of the service; methods are `Start`, `Read`, `Kill`.
pub const SERVICE: &str = "/pvm.RunJournal/";

/// Bytes of output kept per stream when the request names no limit: the first half and the last half.
pub const DEFAULT_OUTPUT_LIMIT: u64 = 8 * 1024 * 1024;
/// Largest output limit that is taken, in bytes per stream.
pub const MAX_OUTPUT_LIMIT: u64 = 1024 * 1024 * 1024;
/// Bytes returned per stream in one report when the request names no limit.
pub const DEFAULT_READ_LIMIT: u64 = 1024 * 1024;
/// Most bytes returned per stream in one report; both streams in base64 stay under the envelope limit.
pub const MAX_READ_LIMIT: u64 = 16 * 1024 * 1024;
/// Longest wait of one call, in milliseconds. Longer waits are calls repeated.
pub const MAX_WAIT_MS: u64 = 300_000;
/// Characters of a run id.
pub const MAX_RUN_ID: usize = 128;

/// Whether a run id has the allowed form: 1 to 128 of `[A-Za-z0-9_-]`.
pub fn is_valid_run_id(run_id: &str) -> bool {
    (1..=MAX_RUN_ID).contains(&run_id.len())
        && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Request of `Start`. The user comes from the `Authorization` header as for `process.Process/Start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartRun {
    /// The caller's name for this run.
    #[serde(alias = "run_id")]
    pub run_id: String,
    /// What to run.
    pub process: ProcessConfig,
    /// All of its standard input; absent means none.
    #[serde(with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Bytes>,
    /// Milliseconds after which its process group is killed; absent or 0 means never.
    #[serde(alias = "timeout_ms", skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Bytes of output kept per stream; absent means [`DEFAULT_OUTPUT_LIMIT`].
    #[serde(alias = "output_limit", skip_serializing_if = "Option::is_none")]
    pub output_limit: Option<u64>,
    /// Milliseconds to wait for the end before reporting; absent or 0 reports at once.
    #[serde(alias = "wait_ms", skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Bytes returned per stream; absent means [`DEFAULT_READ_LIMIT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl StartRun {
    /// Identity of what is to run, in lower-case hex: everything but how long to wait and how much to return.
    /// A second start under the same name must have the same.
    pub fn spec_sha256(&self, user: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Identity<'a> {
            user: &'a str,
            cmd: &'a str,
            args: &'a [String],
            envs: &'a BTreeMap<String, String>,
            cwd: Option<&'a str>,
            stdin: Option<String>,
            timeout_ms: u64,
            output_limit: u64,
        }
        let identity = Identity {
            user,
            cmd: &self.process.cmd,
            args: &self.process.args,
            envs: &self.process.envs,
            cwd: self.process.cwd.as_deref(),
            stdin: self.stdin.as_deref().map(|data| hex(&Sha256::digest(data))),
            timeout_ms: self.timeout_ms.unwrap_or_default(),
            output_limit: self.output_limit.unwrap_or(DEFAULT_OUTPUT_LIMIT),
        };
        // Strings and numbers always encode.
        hex(&Sha256::digest(serde_json::to_vec(&identity).unwrap_or_default()))
    }
}

/// Request of `Read`. Answers at once when there is output past an offset or the run has ended, else after
/// `wait_ms`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadRun {
    /// Which run.
    #[serde(alias = "run_id")]
    pub run_id: String,
    /// Where to read on in standard output: the last report's `next`.
    #[serde(alias = "stdout_offset", deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub stdout_offset: u64,
    /// The same for standard error.
    #[serde(alias = "stderr_offset", deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub stderr_offset: u64,
    /// Bytes returned per stream; absent means [`DEFAULT_READ_LIMIT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Milliseconds to wait for something new.
    #[serde(alias = "wait_ms", skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Request of `Kill`; the answer is `{}`. Killing a run that has ended does nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KillRun {
    /// Which run.
    #[serde(alias = "run_id")]
    pub run_id: String,
    /// Signal for its whole process group; absent means KILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
}

/// State of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It runs.
    Running,
    /// It ended by itself, or by a signal from within.
    Exited,
    /// Its time ran out.
    TimedOut,
    /// `Kill` ended it.
    Killed,
    /// The machine or the daemon went away while it ran; how it ended is not known.
    Lost,
}

impl RunState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        self != Self::Running
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::TimedOut => "timed_out",
            Self::Killed => "killed",
            Self::Lost => "lost",
        }
    }
}

/// Answer of `Start` and `Read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Which run.
    pub run_id: String,
    /// Its state.
    pub state: RunState,
    /// Whether this very call started it.
    #[serde(default)]
    pub claimed: bool,
    /// Process id inside the sandbox, while it runs and afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Exit code, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it (`SIGKILL`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why it could not be started or is lost, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Identity of the boot in which it was started.
    #[serde(default)]
    pub boot_id: String,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How long it ran, or has run so far, in milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
    /// Standard output from the asked offset.
    #[serde(default)]
    pub stdout: Chunk,
    /// Standard error from the asked offset.
    #[serde(default)]
    pub stderr: Chunk,
}

/// A piece of one output stream. Offsets count the bytes that were produced, whether kept or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chunk {
    /// The bytes.
    #[serde(with = "base64_bytes")]
    pub data: Bytes,
    /// Where `data` starts; later than asked when what was asked for is no longer kept.
    pub offset: u64,
    /// What to pass as the next offset.
    pub next: u64,
    /// Bytes produced so far.
    pub total: u64,
    /// Bytes cut out of the middle so far.
    pub dropped: u64,
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> StartRun {
        StartRun {
            run_id: "cmd_1".into(),
            process: ProcessConfig { cmd: "/bin/true".into(), ..ProcessConfig::default() },
            ..StartRun::default()
        }
    }

    #[test]
    fn identity_ignores_how_the_caller_waits() {
        let patient = StartRun { wait_ms: Some(5), limit: Some(9), ..request() };
        assert_eq!(request().spec_sha256("user"), patient.spec_sha256("user"));
    }

    #[test]
    fn identity_depends_on_all_that_runs() {
        let base = request().spec_sha256("user");
        let stdin = StartRun { stdin: Some(Bytes::from_static(b"x")), ..request() };
        let timeout = StartRun { timeout_ms: Some(1), ..request() };
        let mut cwd = request();
        cwd.process.cwd = Some("/tmp".into());
        for other in [stdin, timeout, cwd] {
            assert_ne!(base, other.spec_sha256("user"));
        }
        assert_ne!(base, request().spec_sha256("root"));
    }

    #[test]
    fn run_ids_are_safe_as_directory_names() {
        assert!(is_valid_run_id("cmd_0-Az"));
        for bad in ["", ".", "..", "a/b", "a b", "é", &"a".repeat(129)] {
            assert!(!is_valid_run_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_report_reads_back_as_written() {
        let report = RunReport {
            run_id: "r".into(),
            state: RunState::TimedOut,
            claimed: true,
            pid: Some(7),
            exit_code: None,
            signal: Some("SIGKILL".into()),
            reason: None,
            boot_id: "b".into(),
            started_at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            ended_at: None,
            duration_ms: 12,
            stdout: Chunk { data: Bytes::from_static(b"hi"), offset: 0, next: 2, total: 2, dropped: 0 },
            stderr: Chunk::default(),
        };
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["state"], "timed_out");
        assert_eq!(value["stdout"]["data"], "aGk=");
        assert_eq!(serde_json::from_value::<RunReport>(value).unwrap(), report);
    }
}
