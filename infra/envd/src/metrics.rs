//! `GET /metrics`: CPU, memory and disk in use.
//!
//! Alone, the machine's own figures are told. In a sandbox `/proc/stat` and `/proc/meminfo` show the host, so
//! the sandbox's processes are added up instead: all of them are visible, and nothing else is.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use pvm_e2b_wire::envd_http::EnvdMetrics;
use tokio::time::Instant;

use crate::daemon::Settings;

/// Bytes of one unit in `/proc/<pid>/statm`.
const PAGE: u64 = 4096;
/// Clock ticks of one second in `/proc/<pid>/stat`; the kernel's interface fixes it.
const TICKS: f64 = 100.0;
const MIB: u64 = 1024 * 1024;

/// Remembers the last reading, since use of CPU is a difference.
#[derive(Debug, Default)]
pub struct Sampler {
    last: Mutex<Option<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    busy_seconds: f64,
}

impl Sampler {
    /// Takes a reading. CPU is that since the reading before; 0 in the first one.
    pub fn read(&self, settings: &Settings, now: Timestamp) -> EnvdMetrics {
        let machine_cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let cpu_count = settings.cpu_count.unwrap_or(machine_cpus).max(1);
        let (busy_seconds, memory) = if settings.in_sandbox {
            let (busy, used) = processes();
            let total = settings.memory_bytes.unwrap_or_else(|| machine_memory().total);
            (busy, Memory { total, used: used.min(total), cache: 0 })
        } else {
            (machine_busy_seconds(), machine_memory())
        };
        let (disk_used, disk_total) = disk(Path::new("/"), settings.disk_bytes);
        EnvdMetrics {
            ts: now.as_second(),
            cpu_count,
            cpu_used_pct: self.cpu_percent(Instant::now(), busy_seconds, cpu_count),
            mem_total: memory.total,
            mem_used: memory.used,
            mem_cache: memory.cache,
            mem_total_mib: memory.total / MIB,
            mem_used_mib: memory.used / MIB,
            disk_used,
            disk_total,
        }
    }

    fn cpu_percent(&self, at: Instant, busy_seconds: f64, cpu_count: u32) -> f64 {
        let sample = Sample { at, busy_seconds };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = last.replace(sample) else { return 0.0 };
        let elapsed = sample.at.duration_since(before.at).as_secs_f64();
        if elapsed <= 0.0 {
            return 0.0;
        }
        // Times of processes whose parents are gone may vanish from the sum.
        let busy = (sample.busy_seconds - before.busy_seconds).max(0.0);
        let percent = busy / elapsed / f64::from(cpu_count) * 100.0;
        (percent.min(100.0) * 100.0).round() / 100.0
    }
}

struct Memory {
    total: u64,
    used: u64,
    cache: u64,
}

fn machine_memory() -> Memory {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .find_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    let total = field("MemTotal");
    Memory { total, used: total.saturating_sub(field("MemAvailable")), cache: field("Cached") }
}

/// Seconds that the machine's CPUs were not idle.
fn machine_busy_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest times are in user already.
    ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(index, _)| *index != 3 && *index != 4)
        .map(|(_, t)| *t as f64)
        .sum::<f64>()
        / TICKS
}

/// CPU seconds of all processes that can be seen, with those of their dead children, and their memory in bytes:
/// what is their own, since shared pages would be counted again and again.
fn processes() -> (f64, u64) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return (0.0, 0) };
    let (mut ticks, mut pages) = (0_u64, 0_u64);
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some((_, fields)) = stat.rsplit_once(')') {
            // utime, stime, cutime, cstime.
            ticks +=
                fields.split_whitespace().skip(11).take(4).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>();
        }
        let statm = std::fs::read_to_string(entry.path().join("statm")).unwrap_or_default();
        let numbers: Vec<u64> = statm.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        if let [_, resident, shared, ..] = numbers[..] {
            pages += resident.saturating_sub(shared);
        }
    }
    (ticks as f64 / TICKS, pages * PAGE)
}

/// Bytes used and in all. A file system larger than the sandbox's share is not its own: then only the share is
/// known from here, and what is used of it is the sandbox server's to tell.
fn disk(path: &Path, limit: Option<u64>) -> (u64, u64) {
    let Ok(file_system) = rustix::fs::statvfs(path) else { return (0, limit.unwrap_or(0)) };
    let total = file_system.f_blocks * file_system.f_frsize;
    let used = (file_system.f_blocks - file_system.f_bfree) * file_system.f_frsize;
    match limit {
        Some(limit) if total > limit + limit / 8 => (0, limit),
        _ => (used, total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_plausible() {
        let (busy, memory) = processes();
        assert!(busy >= 0.0 && memory > 0);
        let machine = machine_memory();
        assert!(machine.total > 0 && machine.used <= machine.total);
        assert!(machine_busy_seconds() > 0.0);
        assert!(disk(Path::new("/"), None).1 > 0);
    }

    #[test]
    fn a_share_of_a_larger_file_system_is_told_as_the_share() {
        assert_eq!(disk(Path::new("/"), Some(1024)), (0, 1024));
    }

    #[test]
    fn cpu_is_a_difference_between_readings() {
        let sampler = Sampler::default();
        let start = Instant::now();
        assert!(sampler.cpu_percent(start, 10.0, 2) < f64::EPSILON);
        let later = start + std::time::Duration::from_secs(10);
        assert!((sampler.cpu_percent(later, 15.0, 2) - 25.0).abs() < 0.01);
    }
}
