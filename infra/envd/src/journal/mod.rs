//! The run journal: commands that are never run twice.
//!
//! A run is claimed by making its folder, which only one caller can. Everybody else, and everybody later,
//! attaches to what is there: a run that this daemon looks after, or the record of one that ended or was lost.

pub mod capture;
pub mod record;
mod report;
pub mod run;
pub mod service;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use jiff::Timestamp;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::journal::{RunState, is_valid_run_id};
use tokio::time::Duration;

use crate::http::rpc::{internal, invalid};
use record::{Exit, ProcessId, Spec};
use run::Run;

/// Folder of the journal in a sandbox.
pub const DEFAULT_ROOT: &str = "/var/lib/pvm/runs";
/// How long the record of a run is kept after its end.
pub const KEPT_AFTER_END: Duration = Duration::from_hours(7 * 24);

/// See the module.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    boot_id: String,
    live: Mutex<HashMap<String, Arc<Run>>>,
}

/// A run as found.
#[derive(Debug)]
enum Found {
    /// This daemon looks after it.
    Live(Arc<Run>),
    /// Only its record is there.
    Stored(Box<Stored>),
}

/// The record of a run.
#[derive(Debug)]
struct Stored {
    folder: PathBuf,
    spec: Option<Spec>,
    process: Option<ProcessId>,
    /// `None` while another daemon's process still runs.
    exit: Option<Exit>,
}

impl Journal {
    /// Opens the journal, making its folder. What a tenant has put in its place (a link that leads nowhere, a file)
    /// is removed: it must not keep the sandbox from starting.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: PathBuf, boot_id: String) -> io::Result<Self> {
        let make = || DirBuilder::new().recursive(true).mode(0o700).create(&root);
        if make().is_err() {
            for path in [root.parent(), Some(root.as_path())].into_iter().flatten() {
                if path.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
                    std::fs::remove_file(path)?;
                }
            }
            make()?;
        }
        Ok(Self { root, boot_id, live: Mutex::default() })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Arc<Run>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runs whose process runs.
    pub fn running(&self) -> Vec<Arc<Run>> {
        self.live().values().filter(|run| run.is_alive()).cloned().collect()
    }

    fn folder(&self, run_id: &str) -> PathBuf {
        self.root.join(run_id)
    }

    fn find(&self, run_id: &str) -> Result<Found, ConnectError> {
        check_run_id(run_id)?;
        if let Some(run) = self.live().get(run_id) {
            return Ok(Found::Live(Arc::clone(run)));
        }
        let folder = self.folder(run_id);
        if !folder.is_dir() {
            return Err(ConnectError::new(Code::NotFound, format!("run {run_id} not found")));
        }
        let stored = self.load(folder).map_err(|error| internal(format!("reading run {run_id}: {error}")))?;
        Ok(Found::Stored(Box::new(stored)))
    }

    /// Reads a run's record. One that cannot be running any more and has no end is lost from now on.
    fn load(&self, folder: PathBuf) -> io::Result<Stored> {
        let spec = record::read_spec(&folder)?;
        let process = record::read_pid(&folder)?;
        let mut exit = record::read_exit(&folder)?;
        let same_boot = spec.as_ref().is_some_and(|spec| spec.boot_id == self.boot_id);
        if exit.is_none() && !(same_boot && process.is_some_and(ProcessId::is_alive)) {
            let reason = if spec.is_none() {
                "the sandbox or its daemon went away while the run was being started"
            } else if same_boot {
                "the sandbox's daemon went away while it ran"
            } else {
                "the sandbox was restarted while it ran"
            };
            let now = Timestamp::now();
            let lost = Exit {
                state: RunState::Lost,
                exit_code: None,
                signal: None,
                reason: Some(reason.to_owned()),
                ended_at: now,
                duration_ms: spec.as_ref().map_or(0, |spec| milliseconds(spec.started_at, now)),
            };
            record::write_exit(&folder, &lost)?;
            exit = Some(lost);
        }
        Ok(Stored { folder, spec, process, exit })
    }

    /// Removes the records of runs that ended more than [`KEPT_AFTER_END`] before `now`.
    pub fn prune(&self, now: SystemTime) {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_none_or(|name| self.live().contains_key(name)) {
                continue;
            }
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            let old = age.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > KEPT_AFTER_END));
            // The folder changed last when the end was written into it.
            if old && self.load(entry.path()).is_ok_and(|stored| stored.exit.is_some()) {
                std::fs::remove_dir_all(entry.path()).ok();
            }
        }
    }
}

fn check_run_id(run_id: &str) -> Result<(), ConnectError> {
    if is_valid_run_id(run_id) {
        Ok(())
    } else {
        Err(invalid("runId must be 1 to 128 characters of letters, digits, '_' and '-'"))
    }
}

fn milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond() - from.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().join("runs"), "boot-2".to_owned()).unwrap();
        (folder, journal)
    }

    fn spec(boot_id: &str) -> Spec {
        Spec {
            sha256: String::new(),
            cmd: "true".into(),
            args: Vec::new(),
            cwd: "/".into(),
            user: "root".into(),
            boot_id: boot_id.into(),
            output_limit: 10,
            started_at: Timestamp::now(),
        }
    }

    fn add(journal: &Journal, run_id: &str, boot_id: &str) -> PathBuf {
        let folder = journal.folder(run_id);
        std::fs::create_dir(&folder).unwrap();
        record::write_spec(&folder, &spec(boot_id)).unwrap();
        folder
    }

    fn in_days(days: u64) -> SystemTime {
        SystemTime::now() + Duration::from_hours(days * 24)
    }

    #[test]
    fn what_stands_in_the_place_of_the_folder_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (root, away) = (folder.path().join("pvm/runs"), folder.path().join("away"));
        std::os::unix::fs::symlink(&away, folder.path().join("pvm")).unwrap();
        Journal::open(root.clone(), "boot-1".to_owned()).unwrap();
        assert!(root.is_dir() && !away.exists());
        std::fs::remove_dir(&root).unwrap();
        std::fs::write(&root, "in the way").unwrap();
        Journal::open(root.clone(), "boot-1".to_owned()).unwrap();
        assert!(root.is_dir());
    }

    #[test]
    fn a_run_of_an_earlier_boot_is_lost_for_good() {
        let (_folder, journal) = journal();
        let folder = add(&journal, "r", "boot-1");
        // Its number may be another process's by now: ours, for one.
        record::write_pid(&folder, ProcessId::current(std::process::id()).unwrap()).unwrap();
        let exit = journal.load(folder.clone()).unwrap().exit.unwrap();
        assert_eq!(exit.state, RunState::Lost);
        assert!(exit.reason.as_deref().unwrap().contains("restarted"));
        assert_eq!(record::read_exit(&folder).unwrap(), Some(exit));
    }

    #[test]
    fn a_run_of_this_boot_whose_process_lives_is_not_lost() {
        let (_folder, journal) = journal();
        let folder = add(&journal, "r", "boot-2");
        let own = ProcessId::current(std::process::id()).unwrap();
        record::write_pid(&folder, own).unwrap();
        assert_eq!(journal.load(folder.clone()).unwrap().exit, None);
        // The same number, but started at another time: somebody else.
        record::write_pid(&folder, ProcessId { started: own.started + 1, ..own }).unwrap();
        assert_eq!(journal.load(folder).unwrap().exit.unwrap().state, RunState::Lost);
    }

    #[test]
    fn old_records_are_removed_and_running_ones_never() {
        let (_folder, journal) = journal();
        let ended = add(&journal, "ended", "boot-1");
        let running = add(&journal, "running", "boot-2");
        record::write_pid(&running, ProcessId::current(std::process::id()).unwrap()).unwrap();
        journal.load(ended.clone()).unwrap();
        journal.prune(in_days(6));
        assert!(ended.exists());
        journal.prune(in_days(8));
        assert!(!ended.exists() && running.exists());
    }
}
