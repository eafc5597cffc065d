//! Control groups: memory, processes, CPU time and the freezer, on cgroup v2 and on the older v1 hierarchies.

mod group;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pvm_e2b_wire::launch::LaunchLimits;

use super::tree::ProcessTree;
pub(crate) use group::{Group, Usage};
use group::{make_folder, write};

/// Folder of all our groups in each hierarchy.
const PARENT: &str = "pvm";
/// Controllers a sandbox is bounded by; the freezer is part of v2 and a controller of v1.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

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
}
