//! Control groups: memory, processes, CPU time and the freezer, on cgroup v2 and on the older v1 hierarchies.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pvm_e2b_wire::launch::LaunchLimits;
use serde::{Deserialize, Serialize};

use super::tree::ProcessTree;

/// Folder of all our groups in each hierarchy.
const PARENT: &str = "pvm";
/// Controllers a sandbox is bounded by; the freezer is part of v2 and a controller of v1.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];
/// Period of the CPU quota, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// How long freezing or emptying a group may take before it is an error. Both take well under a millisecond
/// unless a process is stuck in the kernel.
const SETTLE: Duration = Duration::from_secs(5);
/// Pause between two looks at a group that is not settled yet.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Where groups can be made on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One tree with all controllers.
    V2(PathBuf),
    /// A tree per controller, by its name.
    V1(BTreeMap<String, PathBuf>),
    /// None that this user could use.
    Absent,
}

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

impl Hierarchy {
    /// Finds the hierarchies by the mounts of this process.
    ///
    /// # Errors
    /// A sentence naming the controllers that are missing.
    pub(crate) fn detect() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        Self::from_mountinfo(&mounts, |root| fs::read_to_string(root.join("cgroup.controllers")).ok())
    }

    fn from_mountinfo(mounts: &str, controllers: impl Fn(&Path) -> Option<String>) -> Result<Self, String> {
        let mut v1 = BTreeMap::new();
        for line in mounts.lines() {
            let Some((front, back)) = line.split_once(" - ") else { continue };
            let Some(point) = front.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut back = back.split(' ');
            match back.next() {
                Some("cgroup2") => {
                    let has = controllers(&point).unwrap_or_default();
                    if NEEDED.iter().all(|needed| has.split_ascii_whitespace().any(|name| name == *needed)) {
                        return Ok(Self::V2(point));
                    }
                }
                Some("cgroup") => {
                    for option in back.nth(1).unwrap_or_default().split(',') {
                        if NEEDED.contains(&option) || matches!(option, "freezer" | "cpuacct") {
                            v1.entry(option.to_owned()).or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        let missing: Vec<_> =
            NEEDED.iter().chain(&["freezer"]).filter(|name| !v1.contains_key(**name)).copied().collect();
        if missing.is_empty() { Ok(Self::V1(v1)) } else { Err(missing.join(", ")) }
    }

    /// Makes the folder under which the server `instance` keeps its groups.
    pub(crate) fn prepare(&self, instance: &str) -> io::Result<()> {
        match self {
            Self::V1(trees) => {
                for root in trees.values() {
                    fs::create_dir_all(root.join(PARENT).join(instance))?;
                }
            }
            Self::V2(root) => {
                let parent = root.join(PARENT);
                let own = parent.join(instance);
                fs::create_dir_all(&own)?;
                for folder in [root, &parent, &own] {
                    enable_controllers(folder)?;
                }
            }
            Self::Absent => {}
        }
        Ok(())
    }

    /// The groups of this name under the server `instance`, whether they exist or not.
    pub(crate) fn group(&self, instance: &str, name: &str) -> Group {
        let inside = |root: &Path| root.join(PARENT).join(instance).join(name);
        match self {
            Self::V2(root) => Group::V2(inside(root)),
            Self::V1(trees) => {
                Group::V1(trees.iter().map(|(controller, root)| (controller.clone(), inside(root))).collect())
            }
            Self::Absent => Group::Tree(ProcessTree::default()),
        }
    }

    /// Names of the groups that exist, in any tree.
    pub(crate) fn names(&self, instance: &str) -> Vec<String> {
        let roots: Vec<&PathBuf> = match self {
            Self::V2(root) => vec![root],
            Self::V1(trees) => trees.values().collect(),
            Self::Absent => Vec::new(),
        };
        let mut names: Vec<String> = roots
            .into_iter()
            .filter_map(|root| fs::read_dir(root.join(PARENT).join(instance)).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Removes the server's own folder when it is empty: after a shutdown that left nothing running.
    pub(crate) fn remove_if_empty(&self, instance: &str) {
        let roots: Vec<&PathBuf> = match self {
            Self::V2(root) => vec![root],
            Self::V1(trees) => trees.values().collect(),
            Self::Absent => Vec::new(),
        };
        for root in roots {
            // Fails, as it should, while a sandbox or another server has groups there.
            if fs::remove_dir(root.join(PARENT).join(instance)).is_ok() {
                fs::remove_dir(root.join(PARENT)).ok();
            }
        }
    }
}

/// Makes the controllers available to the children of a v2 group.
fn enable_controllers(folder: &Path) -> io::Result<()> {
    let control = folder.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control)?;
    for name in NEEDED {
        if !enabled.split_ascii_whitespace().any(|word| word == name) {
            write(&control, &format!("+{name}"))?;
        }
    }
    Ok(())
}

/// Makes groups for one run of a server. Their names tell the run, so that what another run left is recognised.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    hierarchy: Hierarchy,
    instance: String,
    run: String,
    made: Arc<AtomicU64>,
}

impl Groups {
    pub(crate) fn new(hierarchy: Hierarchy, instance: String) -> Self {
        let run = hex::encode(rand::random::<[u8; 4]>());
        Self { hierarchy, instance, run, made: Arc::default() }
    }

    /// Makes groups with limits, under a name that was never used.
    pub(crate) fn make(&self, limits: &LaunchLimits) -> io::Result<Group> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let group = self.hierarchy.group(&self.instance, &format!("{}-{number}", self.run));
        let made = group.folders().into_iter().try_for_each(make_folder).and_then(|()| group.limit(limits));
        if let Err(error) = made {
            group.remove().ok();
            return Err(error);
        }
        Ok(group)
    }

    /// Groups that an earlier run made.
    pub(crate) fn of_earlier_runs(&self) -> Vec<Group> {
        self.hierarchy
            .names(&self.instance)
            .into_iter()
            .filter(|name| name.split_once('-').is_none_or(|(run, _)| run != self.run))
            .map(|name| self.hierarchy.group(&self.instance, &name))
            .collect()
    }

    /// Removes the server's own folder when nothing is in it.
    pub(crate) fn remove_if_empty(&self) {
        self.hierarchy.remove_if_empty(&self.instance);
    }
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
    fn folders(&self) -> Vec<&Path> {
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

fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| at(folder, &error)),
    }
}

/// Kernel files take one write and must not be created.
fn write(file: &Path, value: &str) -> io::Result<()> {
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

    const HYBRID: &str = "\
30 22 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
";

    #[test]
    fn a_hybrid_machine_is_used_by_its_v1_trees() {
        let Hierarchy::V1(trees) = Hierarchy::from_mountinfo(HYBRID, |_| Some("hugetlb".into())).unwrap()
        else {
            panic!("not v1")
        };
        assert_eq!(trees["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(trees["cpu"], trees["cpuacct"]);
    }

    #[test]
    fn a_unified_machine_is_used_by_its_one_tree() {
        let mounts = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchy::from_mountinfo(mounts, |_| Some("cpu io memory pids".into())).unwrap();
        assert_eq!(found, Hierarchy::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn missing_controllers_are_named() {
        let error = Hierarchy::from_mountinfo("", |_| None).unwrap_err();
        assert_eq!(error, "memory, pids, cpu, freezer");
    }

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
