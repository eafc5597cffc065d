//! The processes of a sandbox without control groups, found by their parents: everything in the sandbox is its first
//! process's child or grandchild, since what loses its parent becomes that one's.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::process::start_ticks;

/// Pause between two looks at processes that do not stand still yet.
const LOOK_AGAIN: Duration = Duration::from_micros(500);
/// Clock ticks in a second, as the kernel tells processor time to programs.
const TICKS_PER_SECOND: u64 = 100;

/// A first process and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessTree {
    first: u32,
    /// When it started: its number may be another's by now.
    start_ticks: u64,
}

impl ProcessTree {
    /// The processes from `first` on.
    pub(super) fn below(first: u32) -> io::Result<Self> {
        Ok(Self { first, start_ticks: start_ticks(first)? })
    }

    /// All of them, the first one first.
    pub(super) fn pids(self) -> Vec<u32> {
        if start_ticks(self.first).ok() != Some(self.start_ticks) {
            return Vec::new();
        }
        let mut found = vec![self.first];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            found.extend(children(pid));
            next += 1;
        }
        found
    }

    /// Stops all, and those that come up meanwhile.
    pub(super) fn stop(self, patience: Duration) -> io::Result<()> {
        let start = Instant::now();
        loop {
            for pid in self.pids() {
                if state(pid).is_some_and(|state| !is_still(state)) {
                    send(pid, Signal::STOP)?;
                }
            }
            if self.stands_still() {
                return Ok(());
            }
            if start.elapsed() > patience {
                self.go_on()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a process did not stop"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets all go on; the first one last, so that nobody is asked for what still stands.
    pub(super) fn go_on(self) -> io::Result<()> {
        self.pids().into_iter().rev().try_for_each(|pid| send(pid, Signal::CONT))
    }

    /// Whether none runs.
    pub(super) fn stands_still(self) -> bool {
        self.pids().into_iter().filter_map(state).all(is_still)
    }

    /// Microseconds of processor time so far, of what still lives, and bytes of memory.
    pub(super) fn usage(self) -> (u64, u64) {
        self.pids().into_iter().fold((0, 0), |(time, memory), pid| {
            let resident = fs::read_to_string(format!("/proc/{pid}/status"))
                .ok()
                .and_then(|text| text.lines().find_map(|line| kilobytes(line.strip_prefix("VmRSS:")?)))
                .unwrap_or_default();
            (time + ticks(pid) * (1_000_000 / TICKS_PER_SECOND), memory + resident * 1024)
        })
    }
}

fn kilobytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// Fields of `/proc/<pid>/stat` behind the name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Stopped, or ended and waiting to be collected.
fn is_still(state: char) -> bool {
    matches!(state, 'T' | 't' | 'Z' | 'X')
}

/// Processor time of a process and of those it has collected.
fn ticks(pid: u32) -> u64 {
    stat(pid)
        .map(|fields| fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum())
        .unwrap_or_default()
}

fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_tree_is_stopped_as_a_whole_and_goes_on() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 100 & (sleep 100 & wait) & wait"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let tree = ProcessTree::below(child.id()).unwrap();
        let start = Instant::now();
        while tree.pids().len() < 4 {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", tree.pids());
            std::thread::sleep(LOOK_AGAIN);
        }
        assert!(!tree.stands_still());
        tree.stop(Duration::from_secs(10)).unwrap();
        assert!(tree.stands_still());
        assert!(tree.usage().1 > 0);
        tree.go_on().unwrap();
        for pid in tree.pids().into_iter().rev() {
            send(pid, Signal::KILL).unwrap();
        }
        child.wait().unwrap();
        assert_eq!(tree.pids(), Vec::<u32>::new());
    }
}
