//! The files of a run's folder: what was asked for, which process it is, and how it ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use pvm_e2b_wire::journal::RunState;
use serde::{Deserialize, Serialize};

const SPEC: &str = "spec.json";
const PID: &str = "pid";
const EXIT: &str = "exit.json";

/// What was asked for. Environment and input stay out: they may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Identity of all that runs.
    pub sha256: String,
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it started.
    pub cwd: String,
    /// As whom.
    pub user: String,
    /// In which start of the sandbox.
    pub boot_id: String,
    /// Bytes of output kept per stream.
    pub output_limit: u64,
    /// When.
    pub started_at: Timestamp,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Any state but running.
    pub state: RunState,
    /// Exit code, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why it is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ended; for a lost one, when that was found out.
    pub ended_at: Timestamp,
    /// How long it ran.
    pub duration_ms: u64,
}

/// A process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since the machine did.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now, if it runs.
    pub fn current(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything; fields are counted from its end.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        // Dead, only not yet collected by whoever inherited it.
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::current(self.pid) == Some(self)
    }
}

/// Stores what was asked for.
///
/// # Errors
/// The system's.
pub fn write_spec(folder: &Path, spec: &Spec) -> io::Result<()> {
    create(&folder.join(SPEC))?.write_all(&serde_json::to_vec(spec)?)
}

/// Reads what was asked for; `None` when the daemon went away before it was written whole.
///
/// # Errors
/// The system's.
pub fn read_spec(folder: &Path) -> io::Result<Option<Spec>> {
    read(&folder.join(SPEC))
}

/// Stores which process it is.
///
/// # Errors
/// The system's.
pub fn write_pid(folder: &Path, process: ProcessId) -> io::Result<()> {
    create(&folder.join(PID))?.write_all(format!("{} {}\n", process.pid, process.started).as_bytes())
}

/// Reads which process it is; `None` when that was not written.
///
/// # Errors
/// The system's.
pub fn read_pid(folder: &Path) -> io::Result<Option<ProcessId>> {
    let text = match std::fs::read_to_string(folder.join(PID)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut numbers = text.split_whitespace();
    let pid = numbers.next().and_then(|number| number.parse().ok());
    let started = numbers.next().and_then(|number| number.parse().ok());
    Ok(pid.zip(started).map(|(pid, started)| ProcessId { pid, started }))
}

/// Stores the end: whole and on disk, or not at all.
///
/// # Errors
/// The system's.
pub fn write_exit(folder: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = folder.join("exit.json.tmp");
    let mut file = create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    file.sync_all()?;
    std::fs::rename(temporary, folder.join(EXIT))?;
    File::open(folder)?.sync_all()
}

/// Reads the end; `None` while there is none.
///
/// # Errors
/// The system's.
pub fn read_exit(folder: &Path) -> io::Result<Option<Exit>> {
    read(&folder.join(EXIT))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
