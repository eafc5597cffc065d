//! The disk limit of every sandbox.
//!
//! A file system with project quotas would refuse the write that goes too far, but the state folder's usually has
//! none (and Debian's cloud kernels often lack them). So three cheaper things together bound it: no single file
//! can grow past the limit (a resource limit that every process inherits); the server watches the disk's free
//! space, which costs nothing, and measures the sandboxes when it has shrunk noticeably; and in a sandbox that is
//! over its limit, the processes that wrote since the last look are ended, as the kernel does when memory runs
//! out, until files are removed. Uploads are refused meanwhile.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
/// Measuring may take this part of the time at most.
const DUTY: u32 = 4;

/// What is known about a sandbox's disk use.
#[derive(Debug, Default)]
pub(crate) struct QuotaState {
    bytes: AtomicU64,
    files: AtomicU64,
    over: AtomicBool,
}

impl QuotaState {
    /// Bytes at the last look.
    pub(crate) fn used(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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
            measured_at = disk;
            let started = Instant::now();
            self.enforce(disk, &mut activity).await;
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

    async fn enforce(self: &Arc<Self>, disk: Disk, activity: &mut HashMap<String, Activity>) {
        let mut grown_most: Option<(u64, Arc<Sandbox>)> = None;
        let mut over = Vec::new();
        let running: Vec<_> =
            self.sandboxes().into_iter().filter(|sandbox| sandbox.running().is_some()).collect();
        for sandbox in running {
            let before = sandbox.quota.used();
            self.measure_disk(&sandbox).await;
            let growth = sandbox.quota.used().saturating_sub(before);
            if sandbox.quota.is_over() {
                over.push(Arc::clone(&sandbox));
            }
            if growth > 0 && grown_most.as_ref().is_none_or(|(most, _)| growth > *most) {
                grown_most = Some((growth, sandbox));
            }
        }
        if disk.available < HOST_RESERVE
            && let Some((_, sandbox)) = grown_most
            && !over.iter().any(|other| Arc::ptr_eq(other, &sandbox))
        {
            tracing::warn!(
                sandbox.id = sandbox.id(),
                "the disk is nearly full; the fastest writer is stopped"
            );
            over.push(sandbox);
        }
        for sandbox in over {
            let known = activity.entry(sandbox.id().to_owned()).or_default();
            let ended = end_writers(&sandbox, known);
            if ended > 0 {
                let message = format!("Disk limit exceeded: {ended} writing process(es) ended");
                tracing::warn!(sandbox.id = sandbox.id(), ended, "disk limit exceeded");
                sandbox.note(self.now_ms(), "error", &message);
            }
        }
    }

    /// Adds up what the sandbox's own layer takes.
    pub(super) async fn measure_disk(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let uppers: Vec<PathBuf> =
            (0..crate::templates::MAX_PARTS).map(|part| sandbox.folder.upper(part)).collect();
        let Ok((bytes, files)) = blocking(move || Ok(usage(&uppers))).await else { return };
        let limits = sandbox.with(|record| record.limits);
        sandbox.quota.bytes.store(bytes, Ordering::Relaxed);
        sandbox.quota.files.store(files, Ordering::Relaxed);
        let over = bytes > limits.disk_mb * 1024 * 1024 || files > limits.disk_mb * FILES_PER_MIB;
        sandbox.quota.over.store(over, Ordering::Relaxed);
    }
}

/// Bytes on disk and number of files below the folders.
fn usage(folders: &[PathBuf]) -> (u64, u64) {
    folders
        .iter()
        .filter(|folder| folder.exists())
        .flat_map(|folder| WalkDir::new(folder).follow_links(false))
        // What vanishes while it is counted needs no counting.
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .fold((0, 0), |(bytes, files), metadata| {
            // A file with several names shares its blocks among them.
            let share = if metadata.is_dir() { 1 } else { metadata.nlink().max(1) };
            (bytes + metadata.blocks() * 512 / share, files + 1)
        })
}

/// Ends the processes that wrote since the last look; when none did and the limit is still exceeded (a flood of
/// empty files writes nothing), those that ran. The first look only takes notes.
fn end_writers(sandbox: &Sandbox, known: &mut Activity) -> usize {
    let Some((group, first)) = sandbox.with(|record| Some((record.group.clone()?, record.process?.pid)))
    else {
        return 0;
    };
    let now: Activity = group
        .pids()
        .into_iter()
        .filter(|pid| *pid != first)
        .filter_map(|pid| Some((pid, seen(pid)?)))
        .collect();
    let before = std::mem::replace(known, now.clone());
    let grew = |pid: &u32, by: fn((u64, u64)) -> u64, now: (u64, u64)| {
        by(now) > before.get(pid).map_or(0, |before| by(*before))
    };
    let mut victims: Vec<u32> =
        now.iter().filter(|(pid, now)| grew(pid, |seen| seen.0, **now)).map(|(pid, _)| *pid).collect();
    if victims.is_empty() && !before.is_empty() {
        victims =
            now.iter().filter(|(pid, now)| grew(pid, |seen| seen.1, **now)).map(|(pid, _)| *pid).collect();
    }
    victims
        .into_iter()
        .filter_map(|pid| Pid::from_raw(pid.cast_signed()))
        .filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
        .count()
}

/// Bytes written and CPU ticks of a process.
fn seen(pid: u32) -> Option<(u64, u64)> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some((written, ticks))
}
