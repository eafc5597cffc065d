//! One sandbox's control groups: its limits, the freezer, what it uses.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pvm_e2b_wire::launch::LaunchLimits;
use serde::{Deserialize, Serialize};

use crate::isolation::tree::ProcessTree;

/// Period of the CPU quota, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// How long freezing or emptying a group may take before it is an error. Both take well under a millisecond
/// unless a process is stuck in the kernel.
const SETTLE: Duration = Duration::from_secs(5);
/// Pause between two looks at a group that is not settled yet.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// One sandbox's groups. Stored with the sandbox, so that a restarted server finds them whatever group it runs
/// in itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    /// One folder.
    V2(PathBuf),
    /// A folder per controller, by its name.
    V1(BTreeMap<String, PathBuf>),
    /// No groups: the processes themselves.
    Tree(ProcessTree),
}

/// What a sandbox uses at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time since its start, in microseconds.
    pub(crate) cpu_us: u64,
    /// Bytes of memory without page cache.
    pub(crate) memory: u64,
    /// Bytes of page cache.
    pub(crate) cache: u64,
}

impl Group {
    /// The same for a process that was just started: where there are no groups, that is what they are.
    pub(crate) fn around(self, pid: u32) -> io::Result<Self> {
        match self {
            Self::Tree(_) => ProcessTree::below(pid).map(Self::Tree),
            other => Ok(other),
        }
    }

    /// Sets the limits.
    pub(crate) fn limit(&self, limits: &LaunchLimits) -> io::Result<()> {
        let memory = limits.memory_mb.saturating_mul(1024 * 1024).to_string();
        let pids = limits.pids.to_string();
        let quota = u64::from(limits.cpu_count) * CPU_PERIOD_US;
        match self {
            Self::V2(folder) => {
                write(&folder.join("memory.max"), &memory)?;
                // Swap would only move the trouble to the host's disk; not every kernel has the file.
                write(&folder.join("memory.swap.max"), "0").ok();
                write(&folder.join("pids.max"), &pids)?;
                write(&folder.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))
            }
            Self::V1(folders) => {
                let file = |controller: &str, name: &str| folders[controller].join(name);
                write(&file("memory", "memory.limit_in_bytes"), &memory)?;
                write(&file("memory", "memory.memsw.limit_in_bytes"), &memory).ok();
                write(&file("pids", "pids.max"), &pids)?;
                write(&file("cpu", "cpu.cfs_period_us"), &CPU_PERIOD_US.to_string()).ok();
                write(&file("cpu", "cpu.cfs_quota_us"), &quota.to_string())
            }
            // Set from inside, as far as it can be: see `sandbox_init::lockdown`.
            Self::Tree(_) => Ok(()),
        }
    }

    /// Its folders; controllers mounted together share one.
    pub(super) fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = match self {
            Self::V2(folder) => vec![folder],
            Self::V1(folders) => folders.values().map(PathBuf::as_path).collect(),
            Self::Tree(_) => Vec::new(),
        };
        folders.sort_unstable();
        folders.dedup();
        folders
    }

    /// Puts a process, and all it will start, into the groups.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.folders()
            .into_iter()
            .try_for_each(|folder| write(&folder.join("cgroup.procs"), &pid.to_string()))
    }

    /// Stops every process of the sandbox where it is, and waits until all stand still.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let (file, value) = match self {
            Self::V2(folder) => (folder.join("cgroup.freeze"), "1"),
            Self::V1(folders) => (freezer(folders)?.join("freezer.state"), "FROZEN"),
            Self::Tree(tree) => return tree.stop(SETTLE),
        };
        write(&file, value)?;
        let start = Instant::now();
        while !self.is_frozen()? {
            if start.elapsed() > SETTLE {
                self.thaw()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a process did not stop"));
            }
            // v1 retries stopping stragglers only when asked again.
            write(&file, value)?;
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Lets the processes go on.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        match self {
            Self::V2(folder) => write(&folder.join("cgroup.freeze"), "0"),
            Self::V1(folders) => write(&freezer(folders)?.join("freezer.state"), "THAWED"),
            Self::Tree(tree) => tree.go_on(),
        }
    }

    /// Whether all processes stand still.
    pub(crate) fn is_frozen(&self) -> io::Result<bool> {
        match self {
            Self::V2(folder) => {
                Ok(field(&fs::read_to_string(folder.join("cgroup.events"))?, "frozen") == Some(1))
            }
            Self::V1(folders) => {
                Ok(fs::read_to_string(freezer(folders)?.join("freezer.state"))?.trim() == "FROZEN")
            }
            Self::Tree(tree) => Ok(tree.stands_still()),
        }
    }

    /// Processes in the groups now, by their ids on the host.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let folder = match self {
            Self::V2(folder) => Some(folder),
            Self::V1(folders) => folders.get("pids"),
            Self::Tree(tree) => return tree.pids(),
        };
        folder
            .and_then(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
            .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
            .unwrap_or_default()
    }

    /// What the sandbox uses; what cannot be read counts as nothing.
    pub(crate) fn usage(&self) -> Usage {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let number = |path: PathBuf| read(path).trim().parse::<u64>().unwrap_or_default();
        let (cpu_us, total, cache) = match self {
            Self::V2(folder) => (
                field(&read(folder.join("cpu.stat")), "usage_usec").unwrap_or_default(),
                number(folder.join("memory.current")),
                field(&read(folder.join("memory.stat")), "file").unwrap_or_default(),
            ),
            Self::V1(folders) => (
                folders.get("cpuacct").map(|f| number(f.join("cpuacct.usage")) / 1000).unwrap_or_default(),
                folders.get("memory").map(|f| number(f.join("memory.usage_in_bytes"))).unwrap_or_default(),
                folders
                    .get("memory")
                    .and_then(|folder| field(&read(folder.join("memory.stat")), "total_cache"))
                    .unwrap_or_default(),
            ),
            Self::Tree(tree) => {
                let (cpu_us, memory) = tree.usage();
                (cpu_us, memory, 0)
            }
        };
        Usage { cpu_us, memory: total.saturating_sub(cache), cache }
    }

    /// Removes the groups; processes in them must have ended, which the kernel may notice a moment late.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let start = Instant::now();
        for folder in self.folders() {
            loop {
                match fs::remove_dir(folder) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if start.elapsed() > SETTLE => return Err(error),
                    Err(_) => std::thread::sleep(LOOK_AGAIN),
                }
            }
        }
        Ok(())
    }
}

fn freezer(folders: &BTreeMap<String, PathBuf>) -> io::Result<&PathBuf> {
    folders.get("freezer").ok_or_else(|| io::Error::other("this machine has no freezer"))
}

/// The number behind `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| at(folder, &error)),
    }
}

/// Kernel files take one write and must not be created.
pub(super) fn write(file: &Path, value: &str) -> io::Result<()> {
    use io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .map_err(|error| at(file, &error))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_v2_are_written_in_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i1");
        fs::create_dir(&path).unwrap();
        for file in ["memory.max", "memory.swap.max", "pids.max", "cpu.max"] {
            fs::write(path.join(file), "").unwrap();
        }
        let limits = LaunchLimits { cpu_count: 2, memory_mb: 2048, disk_mb: 1, pids: 99 };
        Group::V2(path.clone()).limit(&limits).unwrap();
        assert_eq!(fs::read_to_string(path.join("cpu.max")).unwrap(), "200000 100000");
        assert_eq!(fs::read_to_string(path.join("memory.max")).unwrap(), "2147483648");
        assert_eq!(fs::read_to_string(path.join("pids.max")).unwrap(), "99");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("user_usec 5\nusage_usec 7\n", "usage_usec"), Some(7));
        assert_eq!(field("frozen_x 5\nfrozen 1\n", "frozen"), Some(1));
    }
}
