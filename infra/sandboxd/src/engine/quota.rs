//! The disk limit of every sandbox.
//!
//! A file system with project quotas would refuse the write that goes too far, but the state folder's usually has
//! none (and Debian's cloud kernels often lack them). So three cheaper things together bound it: no single file
//! can grow past the limit (a resource limit that every process inherits); the server watches the disk's free
//! space, which costs nothing, and measures the sandboxes when it has shrunk noticeably; and in a sandbox that is
//! over its limit, the processes that wrote since the last look are ended, as the kernel does when memory runs
//! out, until files are removed. Uploads are refused meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use walkdir::WalkDir;

use super::create::blocking;
use super::{Engine, Sandbox};

/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Growth of the disk's use after which sandboxes are measured.
const NOTICEABLE: u64 = 64 * 1024 * 1024;
/// The same for the number of files.
const NOTICEABLE_FILES: u64 = 16 * 1024;
/// Free space under which the sandbox that grew most is treated as over its limit, whatever its own use.
const HOST_RESERVE: u64 = 512 * 1024 * 1024;
/// Files a sandbox may have for each MiB of its disk limit: ext4's own default ratio.
const FILES_PER_MIB: u64 = 64;
/// What statfs says of an overlay.
const OVERLAY_FILE_SYSTEM: i64 = 0x794c_7630;
/// Measuring may take this part of the time at most.
const DUTY: u32 = 4;

/// Age at which a measured disk use is measured again for who asks.
const STALE: Duration = Duration::from_secs(5);

/// What is known about a sandbox's disk use.
#[derive(Debug, Default)]
pub(crate) struct QuotaState {
    bytes: AtomicU64,
    over: AtomicBool,
    measured: Mutex<Option<Instant>>,
}

impl QuotaState {
    /// Bytes at the last look.
    pub(crate) fn used(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_stale(&self) -> bool {
        let measured = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.is_none_or(|at| at.elapsed() >= STALE)
    }

    fn keep(&self, measured: DiskUse, limit_mb: u64) {
        self.bytes.store(measured.bytes, Ordering::Relaxed);
        let over = measured.bytes > limit_mb * 1024 * 1024 || measured.files > limit_mb * FILES_PER_MIB;
        self.over.store(over, Ordering::Relaxed);
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the limit is exceeded.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// State of the disk.
#[derive(Debug, Clone, Copy, Default)]
struct Disk {
    used: u64,
    files: u64,
    available: u64,
}

/// What processes had done at the last look, by their ids: bytes written, and CPU ticks.
type Activity = HashMap<u32, (u64, u64)>;

/// What a sandbox takes of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct DiskUse {
    bytes: u64,
    files: u64,
}

impl Engine {
    /// Watches the disk until the server stops.
    pub(crate) async fn watch_disk_continually(self: Arc<Self>) {
        let mut measured_at = self.disk().unwrap_or_default();
        let mut activity: HashMap<String, Activity> = HashMap::new();
        let mut pause = LOOK_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stopping.cancelled() => return,
            }
            pause = LOOK_EVERY;
            let Ok(disk) = self.disk() else { continue };
            let any_over = self.sandboxes().iter().any(|sandbox| sandbox.quota.is_over());
            let grown = disk.used.saturating_sub(measured_at.used) >= NOTICEABLE
                || disk.files.saturating_sub(measured_at.files) >= NOTICEABLE_FILES;
            if !grown && !any_over && disk.available >= HOST_RESERVE {
                // Space given back counts as well: later growth is measured from there.
                measured_at.used = measured_at.used.min(disk.used);
                measured_at.files = measured_at.files.min(disk.files);
                activity.clear();
                continue;
            }
            let shrunk_by = disk.used.saturating_sub(measured_at.used);
            measured_at = disk;
            let started = Instant::now();
            self.enforce(disk, shrunk_by, &mut activity).await;
            pause = pause.max(started.elapsed() * DUTY);
        }
    }

    fn disk(&self) -> std::io::Result<Disk> {
        let state = rustix::fs::statvfs(self.layout.root())?;
        Ok(Disk {
            used: (state.f_blocks - state.f_bfree) * state.f_frsize,
            files: state.f_files - state.f_ffree,
            available: state.f_bavail * state.f_frsize,
        })
    }

    async fn enforce(self: &Arc<Self>, disk: Disk, shrunk_by: u64, activity: &mut HashMap<String, Activity>) {
        let mut looks = Vec::new();
        for sandbox in self.sandboxes().into_iter().filter(|sandbox| sandbox.running().is_some()) {
            let before = sandbox.quota.used();
            self.measure_disk(&sandbox).await;
            let known = activity.entry(sandbox.id().to_owned()).or_default();
            let seen = Seen::look(&sandbox, known);
            let grown = sandbox.quota.used().saturating_sub(before);
            looks.push(Look { sandbox, seen, grown });
        }
        let nearly_full = disk.available < HOST_RESERVE;
        let figures: Vec<_> = looks.iter().map(|look| (look.grown, look.seen.written)).collect();
        let writer = fastest(&figures, shrunk_by).filter(|_| nearly_full);
        for (index, look) in looks.iter().enumerate() {
            let is_writer = writer == Some(index);
            if is_writer && !look.sandbox.quota.is_over() {
                let id = look.sandbox.id();
                tracing::warn!(sandbox.id = id, "the disk is nearly full; the fastest writer is stopped");
            }
            if is_writer || look.sandbox.quota.is_over() {
                self.end_writers(look);
            }
        }
    }

    fn end_writers(&self, look: &Look) {
        let ended = look.seen.end_writers();
        if ended > 0 {
            let message = format!("Disk limit exceeded: {ended} writing process(es) ended");
            tracing::warn!(sandbox.id = look.sandbox.id(), ended, "disk limit exceeded");
            look.sandbox.note(self.now_ms(), "error", &message);
        }
    }

    /// Adds up what the sandbox's own layer takes, and what its processes hold open of removed files.
    pub(super) async fn measure_disk(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let uppers: Vec<PathBuf> =
            (0..crate::templates::MAX_PARTS).map(|part| sandbox.folder.upper(part)).collect();
        let group = sandbox.with(|record| record.group.clone());
        let measure = move || {
            let pids = group.map(|group| group.pids()).unwrap_or_default();
            let removed = usage_of_removed(&pids);
            let kept = usage(&uppers);
            Ok(DiskUse { bytes: kept.bytes + removed.bytes, files: kept.files + removed.files })
        };
        let Ok(measured) = blocking(measure).await else { return };
        sandbox.quota.keep(measured, sandbox.with(|record| record.limits.disk_mb));
    }

    /// Bytes of disk that the sandbox takes, as of a few seconds ago at most.
    pub(super) async fn fresh_disk_use(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> u64 {
        if sandbox.quota.is_stale() {
            self.measure_disk(sandbox).await;
        }
        sandbox.quota.used()
    }
}

/// One sandbox at one look.
#[derive(Debug)]
struct Look {
    sandbox: Arc<Sandbox>,
    seen: Seen,
    /// Bytes that it takes more than at the look before.
    grown: u64,
}

/// Who fills a disk that is nearly full, of pairs of growth and bytes written. Who is seen to have grown by most of what
/// the disk has lost; where that explains little, somebody writes what cannot be counted, and it is who has written most.
fn fastest(looks: &[(u64, u64)], shrunk_by: u64) -> Option<usize> {
    let most = |by: fn(&(u64, u64)) -> u64| {
        let numbers = looks.iter().map(by).enumerate();
        numbers.max_by_key(|(_, number)| *number).filter(|(_, number)| *number > 0)
    };
    let grown = most(|look| look.0).filter(|(_, grown)| *grown >= shrunk_by / 2);
    grown.or_else(|| most(|look| look.1)).map(|(index, _)| index)
}

/// What is below the folders.
fn usage(folders: &[PathBuf]) -> DiskUse {
    folders
        .iter()
        .filter(|folder| folder.exists())
        .flat_map(|folder| WalkDir::new(folder).follow_links(false))
        // What vanishes while it is counted needs no counting.
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .fold(DiskUse::default(), |sum, metadata| {
            // A file with several names shares its blocks among them.
            let share = if metadata.is_dir() { 1 } else { metadata.nlink().max(1) };
            DiskUse { bytes: sum.bytes + metadata.blocks() * 512 / share, files: sum.files + 1 }
        })
}

/// What files without a name take that these processes have open: no walk finds them.
fn usage_of_removed(pids: &[u32]) -> DiskUse {
    let mut seen = HashSet::new();
    pids.iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|descriptor| removed_file(&descriptor.path()))
        .filter(|metadata| seen.insert((metadata.dev(), metadata.ino())))
        .fold(DiskUse::default(), |sum, metadata| DiskUse {
            bytes: sum.bytes + metadata.blocks() * 512,
            files: sum.files + 1,
        })
}

/// The file behind a descriptor, if it was removed and is on the sandbox's layer. Files in memory have no names either.
fn removed_file(descriptor: &Path) -> Option<fs::Metadata> {
    let shown = fs::read_link(descriptor).ok()?;
    // A name that only ends like this costs a look and no more.
    if !shown.as_os_str().as_bytes().ends_with(b" (deleted)") {
        return None;
    }
    let metadata = fs::metadata(descriptor).ok()?;
    let on_layer = rustix::fs::statfs(descriptor).ok()?.f_type == OVERLAY_FILE_SYSTEM;
    (metadata.is_file() && metadata.nlink() == 0 && on_layer).then_some(metadata)
}

/// What a sandbox's processes have done since the look before.
#[derive(Debug, Default)]
struct Seen {
    /// Bytes written by all of them; 0 at the first look, when it is not known since when.
    written: u64,
    /// Those that wrote.
    writers: Vec<u32>,
    /// Those that ran. Empty at the first look, which only takes notes.
    busy: Vec<u32>,
}

impl Seen {
    /// Looks at the processes, and notes in `known` what the next look starts from.
    fn look(sandbox: &Sandbox, known: &mut Activity) -> Self {
        let Some((group, first)) = sandbox.with(|record| Some((record.group.clone()?, record.process?.pid)))
        else {
            return Self::default();
        };
        let now: Activity = group
            .pids()
            .into_iter()
            .filter(|pid| *pid != first)
            .filter_map(|pid| Some((pid, activity_of(pid)?)))
            .collect();
        let before = std::mem::replace(known, now.clone());
        Self::between(&before, &now)
    }

    fn between(before: &Activity, now: &Activity) -> Self {
        let mut seen = Self::default();
        for (pid, (written, ticks)) in now {
            let (written_before, ticks_before) = before.get(pid).copied().unwrap_or_default();
            let wrote = written.saturating_sub(written_before);
            if wrote > 0 {
                seen.writers.push(*pid);
            }
            if !before.is_empty() {
                seen.written += wrote;
                seen.busy.extend((*ticks > ticks_before).then_some(*pid));
            }
        }
        seen
    }

    /// Ends the processes that wrote; when none did and the limit is still exceeded (a flood of empty files writes
    /// nothing), those that ran. Tells how many.
    fn end_writers(&self) -> usize {
        let victims = if self.writers.is_empty() { &self.busy } else { &self.writers };
        victims
            .iter()
            .filter_map(|pid| Pid::from_raw(pid.cast_signed()))
            .filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
            .count()
    }
}

/// Bytes written and CPU ticks of a process.
fn activity_of(pid: u32) -> Option<(u64, u64)> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some((written, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_takes_notes() {
        let first = Seen::between(&Activity::new(), &Activity::from([(1, (10, 5)), (2, (0, 5))]));
        assert_eq!((first.written, first.writers, first.busy), (0, vec![1], vec![]));
        let before = Activity::from([(1, (10, 5)), (2, (0, 5))]);
        let next = Seen::between(&before, &Activity::from([(1, (10, 5)), (2, (0, 6)), (3, (7, 0))]));
        assert_eq!((next.written, next.writers, next.busy), (7, vec![3], vec![2]));
    }

    #[test]
    fn who_fills_the_disk_is_told_by_growth_or_else_by_what_was_written() {
        let look = |grown, written| (grown, written);
        for (looks, shrunk_by, expected) in [
            // Growth explains what is missing: a database that writes in place is left alone.
            (vec![look(90, 90), look(0, 500)], 100, Some(0)),
            // It does not: what one writes has no name anywhere.
            (vec![look(1, 1), look(0, 500)], 100, Some(1)),
            (vec![look(0, 0), look(0, 0)], 100, None),
            (vec![], 100, None),
        ] {
            assert_eq!(fastest(&looks, shrunk_by), expected, "{looks:?}");
        }
    }
}
