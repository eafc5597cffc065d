//! Messages of the `process.Process` Connect service.
//!
//! Methods: `List`, `Update`, `SendInput`, `SendSignal`, `CloseStdin` (unary), `Start`, `Connect` (server
//! streams of [`StartResponse`]) and `StreamInput` (client stream of [`StreamInputRequest`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::proto_json::{base64_option, is_default, null_default, proto_enum};

/// Path prefix of the service; a method is `/process.Process/<Method>`.
pub const SERVICE: &str = "/process.Process/";

/// An empty request or answer (`{}`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessConfig {
    /// The program: a path, or a name looked up in `PATH`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub cmd: String,
    /// Its arguments, the program itself not among them.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment that wins over the sandbox's.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; absolute, `~`, or relative to the user's home. Absent: the sandbox's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PtySize {
    /// Columns.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub cols: u32,
    /// Rows.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub rows: u32,
}

/// A terminal for the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pty {
    /// Its size; absent leaves it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<PtySize>,
}

/// Names a process by pid or by tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessSelector {
    /// The process id inside the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The tag given at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl ProcessSelector {
    /// Selects by pid.
    pub fn pid(pid: u32) -> Self {
        Self { pid: Some(pid), tag: None }
    }

    /// Selects by tag.
    pub fn tag(tag: impl Into<String>) -> Self {
        Self { pid: None, tag: Some(tag.into()) }
    }
}

/// Request of `List`; empty.
pub type ListRequest = Empty;

/// A running process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessInfo {
    /// What was asked to run.
    pub config: ProcessConfig,
    /// Its process id inside the sandbox.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub pid: u32,
    /// The tag given at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Answer of `List`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListResponse {
    /// Every process started through the daemon that still runs.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessInfo>,
}

/// Request of `Start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartRequest {
    /// What to run.
    #[serde(deserialize_with = "null_default")]
    pub process: ProcessConfig,
    /// Present: run it on a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
    /// A name to find the process by later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Whether standard input is an open pipe (absent means yes, for old clients) or `/dev/null` (false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
}

/// One message of the streams of `Start` and `Connect`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartResponse {
    /// What happened.
    pub event: ProcessEvent,
}

/// Messages of `Connect` have the shape of those of `Start`.
pub type ConnectResponse = StartResponse;

/// What happened to a process. Exactly one field is set; an unknown kind of event leaves all empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessEvent {
    /// First message: the process runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<StartEvent>,
    /// A piece of output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataEvent>,
    /// Last message: the process ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<EndEvent>,
    /// Nothing happened for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Empty>,
}

impl StartResponse {
    /// The first message.
    pub fn started(pid: u32) -> Self {
        Self { event: ProcessEvent { start: Some(StartEvent { pid }), ..ProcessEvent::default() } }
    }

    /// A piece of output.
    pub fn data(data: DataEvent) -> Self {
        Self { event: ProcessEvent { data: Some(data), ..ProcessEvent::default() } }
    }

    /// The last message.
    pub fn ended(end: EndEvent) -> Self {
        Self { event: ProcessEvent { end: Some(end), ..ProcessEvent::default() } }
    }

    /// A sign of life.
    pub fn keepalive() -> Self {
        Self { event: ProcessEvent { keepalive: Some(Empty {}), ..ProcessEvent::default() } }
    }
}

/// The process runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartEvent {
    /// Its process id inside the sandbox.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub pid: u32,
}

/// A piece of output; exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataEvent {
    /// From standard output.
    #[serde(with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Bytes>,
    /// From standard error.
    #[serde(with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Bytes>,
    /// From the terminal.
    #[serde(with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub pty: Option<Bytes>,
}

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndEvent {
    /// Exit code; -1 when a signal ended it.
    #[serde(alias = "exit_code", deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub exit_code: i32,
    /// Whether it ended by itself rather than by a signal.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub exited: bool,
    /// `exit status N` or `signal: killed`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The same text when the end was not a clean exit 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Input for a process; one of both is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessInput {
    /// For its standard input.
    #[serde(with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Bytes>,
    /// For its terminal.
    #[serde(with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub pty: Option<Bytes>,
}

/// Request of `SendInput`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SendInputRequest {
    /// Which process.
    pub process: ProcessSelector,
    /// What to write.
    pub input: ProcessInput,
}

/// One message of the stream of `StreamInput`; the first is a `start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamInputRequest {
    /// Names the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<StreamInputStart>,
    /// Input for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<StreamInputData>,
    /// A sign of life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Empty>,
}

/// Names the process that a `StreamInput` feeds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamInputStart {
    /// Which process.
    pub process: ProcessSelector,
}

/// Input in a `StreamInput`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamInputData {
    /// What to write.
    pub input: ProcessInput,
}

/// Request of `Connect` and `CloseStdin`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// Which process.
    pub process: ProcessSelector,
    /// `Connect` only: whether output that somebody has read already comes again, as far as it is kept.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub replay: bool,
}

/// Request of `CloseStdin`.
pub type CloseStdinRequest = ConnectRequest;

/// Request of `Update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateRequest {
    /// Which process.
    pub process: ProcessSelector,
    /// The terminal's new size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
}

/// Request of `SendSignal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SendSignalRequest {
    /// Which process.
    pub process: ProcessSelector,
    /// Which signal; only TERM and KILL are implemented by servers.
    #[serde(deserialize_with = "null_default")]
    pub signal: Signal,
}

proto_enum! {
    /// Signals of the protocol.
    pub enum Signal {
        /// None was given.
        #[default]
        Unspecified = 0 => "SIGNAL_UNSPECIFIED",
        /// Asks to end (15).
        Sigterm = 15 => "SIGNAL_SIGTERM",
        /// Ends (9).
        Sigkill = 9 => "SIGNAL_SIGKILL",
    }
}
