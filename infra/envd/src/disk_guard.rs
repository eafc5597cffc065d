//! A last guard of the machine's disk. The sandbox server bounds what a sandbox writes; while no server runs, nobody
//! does, and a tenant's loop would fill the disk for everybody. So when nearly nothing is free any more, the daemon ends
//! those of its own processes that go on writing.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::log;

/// Free space under which writers are ended: below the server's own reserve, which comes first.
const RESERVE: u64 = 256 * 1024 * 1024;
/// How often the free space is looked at. The look is one system call.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Bytes written between two looks that make a process a writer.
const NOTICEABLE: u64 = 4 * 1024 * 1024;

/// Bytes written so far, by process.
type Written = HashMap<u32, u64>;

/// Watches for ever.
pub async fn watch() {
    let mut before = Written::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let is_short = rustix::fs::statvfs("/").is_ok_and(|disk| disk.f_bavail * disk.f_frsize < RESERVE);
        if !is_short {
            before.clear();
            continue;
        }
        let now = written();
        for pid in writers(&before, &now) {
            if let Some(process) = Pid::from_raw(pid.cast_signed())
                && kill_process(process, Signal::KILL).is_ok()
            {
                log::warn("the machine's disk is full: a writing process was ended", json!({"pid": pid}));
            }
        }
        before = now;
    }
}

/// Processes that have written noticeably since the last look; the first look only takes notes.
fn writers(before: &Written, now: &Written) -> Vec<u32> {
    let grew = |(pid, bytes): &(&u32, &u64)| {
        before.get(*pid).is_some_and(|earlier| bytes.saturating_sub(*earlier) >= NOTICEABLE)
            || (!before.is_empty() && !before.contains_key(*pid) && **bytes >= NOTICEABLE)
    };
    now.iter().filter(grew).map(|(pid, _)| *pid).collect()
}

fn written() -> Written {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Written::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| Some((pid, bytes_of(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)?)))
        .collect()
}

/// What a process and the children it has collected have written.
fn bytes_of(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_writes_much_between_two_looks_is_ended() {
        let mib = 1024 * 1024;
        let now = Written::from([(1, 100 * mib), (2, 5 * mib), (3, 9 * mib)]);
        assert_eq!(writers(&Written::new(), &now), Vec::<u32>::new(), "the first look takes notes");
        let before = Written::from([(1, 100 * mib), (2, mib)]);
        let mut found = writers(&before, &now);
        found.sort_unstable();
        assert_eq!(found, [2, 3]);
    }

    #[test]
    fn the_bytes_written_are_found() {
        assert_eq!(bytes_of("rchar: 5\nwrite_bytes: 42\ncancelled_write_bytes: 7\n"), Some(42));
        assert_eq!(bytes_of(""), None);
    }
}
