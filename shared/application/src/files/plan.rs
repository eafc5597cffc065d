//! What must be done to make both sides of a workspace equal. Decides only, by what both sides have now and what they
//! had when they were last equal; nothing is read or written here.

use std::collections::{BTreeMap, HashMap, HashSet};

use pvm_domain::file::{
    ProjectFile, Reconcile, SyncStatus, WorkspaceLink, WorkspacePath, reconcile as decide,
};
use pvm_domain::limits;

use crate::ports::{EntryKind, VmEntry};

/// Permission bits that are kept: the rest (set-user-id and the like) has no place in a file store.
pub(super) const MODE_BITS: u32 = 0o777;

/// What the store's side is to get from the VM.
#[derive(Debug, Clone)]
pub(super) enum FromVm {
    /// A file that the store has not.
    New { path: WorkspacePath, size: u64, mode: u32 },
    /// New bytes of a file.
    Changed { file: Box<ProjectFile>, size: u64, mode: u32 },
    /// Other permission bits of a file.
    Mode { file: Box<ProjectFile>, mode: u32 },
    /// A file that is elsewhere now, with the bytes it had.
    Moved { file: Box<ProjectFile>, to: WorkspacePath, mode: u32 },
    /// A file that is gone.
    Gone { file: Box<ProjectFile> },
    /// Both sides are equal, and the record does not say so yet.
    Equal { file: Box<ProjectFile>, sha256: String, mode: u32 },
    /// A link that the store has not, or has with another target.
    Link { known: Option<Box<WorkspaceLink>>, path: WorkspacePath, target: String },
    /// A link that is gone.
    LinkGone { link: Box<WorkspaceLink> },
}

/// What the VM's side is to get from the store.
#[derive(Debug, Clone)]
pub(super) enum ToVm {
    /// A file's bytes.
    File(Box<ProjectFile>),
    /// A file's permission bits.
    Mode(Box<ProjectFile>),
    /// A link.
    Link(Box<WorkspaceLink>),
}

/// Everything there is to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) from_vm: Vec<FromVm>,
    pub(super) to_vm: Vec<ToVm>,
    /// Files that both sides changed, with the permission bits that the VM's has.
    pub(super) conflicts: Vec<(Box<ProjectFile>, u64, u32)>,
    /// Files and links below a folder that is a link in the VM: writing there would lead elsewhere.
    pub(super) blocked: Vec<(Box<ProjectFile>, String)>,
    /// Paths that the VM has and the store cannot take: too long, no text, or not readable.
    pub(super) unstored: Vec<String>,
}

impl FromVm {
    /// Bytes to move.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::New { size, .. } | Self::Changed { size, .. } => *size,
            _ => 0,
        }
    }
}

impl ToVm {
    /// Bytes to move.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Mode(_) | Self::Link(_) => 0,
        }
    }

    /// Whether it failed the last time: a try that may fail again.
    pub(super) fn is_retry(&self) -> bool {
        matches!(self, Self::File(file) | Self::Mode(file) if file.sync_status == SyncStatus::Failed)
    }
}

/// What the VM has, by path.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) files: BTreeMap<String, VmEntry>,
    links: BTreeMap<String, String>,
    unreadable: Vec<String>,
    /// Files that are there and that the scan passes over, because an ignore file names them. They were uploaded; what
    /// the VM makes of them is not saved, and that they are not in the scan does not mean that they are gone.
    pub(super) unwatched: HashSet<String>,
}

impl Seen {
    /// Sorts a scan.
    pub(super) fn of(entries: Vec<VmEntry>) -> Self {
        let mut seen = Self::default();
        for entry in entries {
            match entry.kind {
                EntryKind::File => drop(seen.files.insert(entry.path.clone(), entry)),
                EntryKind::Symlink => {
                    if let Some(target) = entry.symlink_target {
                        seen.links.insert(entry.path, target);
                    }
                }
                EntryKind::Unreadable => seen.unreadable.push(entry.path),
                EntryKind::Directory => {}
            }
        }
        seen
    }

    /// The link among the folders above `path`, if there is one.
    fn link_above<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.links.is_empty() {
            return None;
        }
        path.match_indices('/').map(|(at, _)| &path[..at]).find(|above| self.links.contains_key(*above))
    }
}

/// Plans for the VM `vm_id`.
pub(super) fn plan(files: Vec<ProjectFile>, links: Vec<WorkspaceLink>, mut seen: Seen, vm_id: &str) -> Plan {
    let mut plan = Plan { unstored: std::mem::take(&mut seen.unreadable), ..Plan::default() };
    let mut known = HashSet::new();
    let mut gone: Vec<Box<ProjectFile>> = Vec::new();
    let scanned = std::mem::take(&mut seen.files);
    for file in files {
        known.insert(file.path.as_str().to_owned());
        // A file whose first upload has not arrived has nothing to compare.
        if file.object_version == 0 {
            // Its first upload has not arrived, and the VM has bytes of its own there. They are saved; the upload is kept
            // beside them when it comes.
            if let Some(entry) = scanned.get(file.path.as_str()).filter(|entry| entry.sha256.is_some()) {
                let (size, mode) = (entry.size, entry.mode & MODE_BITS);
                plan.from_vm.push(FromVm::Changed { file: Box::new(file), size, mode });
            }
            continue;
        }
        let stored = file.sha256.clone();
        if let Some(stored) = stored.filter(|_| !seen.unwatched.contains(file.path.as_str())) {
            let entry = scanned.get(file.path.as_str());
            existing(&mut plan, &mut gone, &seen, Box::new(file), &stored, entry, vm_id);
        }
    }
    let fresh = scanned.into_iter().filter(|(path, _)| !known.contains(path));
    found(&mut plan, gone, fresh);
    linked(&mut plan, links, seen, vm_id);
    plan
}

fn existing(
    plan: &mut Plan,
    gone: &mut Vec<Box<ProjectFile>>,
    seen: &Seen,
    file: Box<ProjectFile>,
    stored: &str,
    entry: Option<&VmEntry>,
    vm_id: &str,
) {
    // A file that was changed while it was hashed has no hash: it is left for the next time.
    if entry.is_some_and(|entry| entry.sha256.is_none()) {
        return;
    }
    let in_vm = entry.and_then(|entry| entry.sha256.as_deref());
    let copy = file.vm_copy.as_ref().filter(|copy| copy.vm_id == vm_id);
    let (base, base_mode) = (copy.map(|copy| copy.sha256.clone()), copy.and_then(|copy| copy.mode));
    let mode = entry.map_or(file.mode, |entry| entry.mode & MODE_BITS);
    let size = entry.map_or(0, |entry| entry.size);
    match decide(stored, in_vm, base.as_deref()) {
        Reconcile::Equal if mode != file.mode => {
            // Whoever moved away from what both had last decides; where nobody knows, the store does.
            if base_mode == Some(file.mode) {
                plan.from_vm.push(FromVm::Mode { file, mode });
            } else {
                plan.to_vm.push(ToVm::Mode(file));
            }
        }
        Reconcile::Equal => {
            let noted = file.sync_status == SyncStatus::Synced && base.as_deref() == Some(stored);
            if !noted || base_mode != Some(mode) {
                plan.from_vm.push(FromVm::Equal { sha256: stored.to_owned(), mode, file });
            }
        }
        Reconcile::Push => match seen.link_above(file.path.as_str()) {
            Some(link) => {
                let reason = format!("`{link}` is a symbolic link in the VM; nothing is written through it");
                plan.blocked.push((file, reason));
            }
            None => plan.to_vm.push(ToVm::File(file)),
        },
        Reconcile::Save => plan.from_vm.push(FromVm::Changed { file, size, mode }),
        Reconcile::Forget => gone.push(file),
        Reconcile::Conflict => plan.conflicts.push((file, size, mode)),
    }
}

/// New paths: each takes the place of a file that is gone and had the same bytes, or is a new file.
fn found(plan: &mut Plan, gone: Vec<Box<ProjectFile>>, fresh: impl Iterator<Item = (String, VmEntry)>) {
    let mut by_hash: HashMap<String, Vec<Box<ProjectFile>>> = HashMap::new();
    for file in gone {
        by_hash.entry(file.sha256.clone().unwrap_or_default()).or_default().push(file);
    }
    for (text, entry) in fresh {
        let Some(sha256) = &entry.sha256 else { continue };
        let path = match WorkspacePath::parse("path", &text) {
            Ok(path) if path.as_str() == text => path,
            Ok(_) | Err(_) => {
                plan.unstored.push(text);
                continue;
            }
        };
        let mode = entry.mode & MODE_BITS;
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let candidates = by_hash.get_mut(sha256).filter(|candidates| !candidates.is_empty());
        let moved = candidates.and_then(|candidates| {
            let same_name = candidates.iter().position(|file| name(file.path.as_str()) == name(&text));
            // Empty files are all alike: only the name tells one from another.
            let place = same_name.or_else(|| (entry.size > 0).then_some(0))?;
            Some(candidates.swap_remove(place))
        });
        plan.from_vm.push(match moved {
            Some(file) => FromVm::Moved { file, to: path, mode },
            None => FromVm::New { path, size: entry.size, mode },
        });
    }
    // An upload that is on its way means to put the file there again: it is not gone before that one is over.
    let over = by_hash.into_values().flatten().filter(|file| file.uploads.is_empty());
    plan.from_vm.extend(over.map(|file| FromVm::Gone { file }));
}

fn linked(plan: &mut Plan, links: Vec<WorkspaceLink>, mut seen: Seen, vm_id: &str) {
    for link in links {
        let in_vm = seen.links.remove(link.path.as_str());
        let base = link.vm_copy.as_ref().filter(|copy| copy.vm_id == vm_id).map(|copy| copy.target.clone());
        let (path, link) = (link.path.clone(), Box::new(link));
        match (in_vm, decide_link(&link.target, base.as_deref())) {
            (Some(target), _) if target == link.target => {
                if base.as_deref() != Some(&target) {
                    plan.from_vm.push(FromVm::Link { known: Some(link), path, target });
                }
            }
            // A link has no other side that could change it: what the VM says is newer.
            (Some(target), _) => plan.from_vm.push(FromVm::Link { known: Some(link), path, target }),
            (None, true) => plan.from_vm.push(FromVm::LinkGone { link }),
            (None, false) => plan.to_vm.push(ToVm::Link(link)),
        }
    }
    for (text, target) in seen.links {
        match WorkspacePath::parse("path", &text) {
            Ok(path) if path.as_str() == text && target.len() <= limits::LINK_BYTES => {
                plan.from_vm.push(FromVm::Link { known: None, path, target });
            }
            Ok(_) | Err(_) => plan.unstored.push(text),
        }
    }
}

/// Whether a link that the VM has not was there, so that the VM removed it.
fn decide_link(stored: &str, base: Option<&str>) -> bool {
    base == Some(stored)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
