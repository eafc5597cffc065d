//! A sandbox's PID 1 as seen from the server: identity over restarts, signals, its end.
#![expect(unsafe_code, reason = "waitid on a pid descriptor with __WALL has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes the exit status of an ended child, so that no zombie stays. Nothing happens when the process is not our
/// child (an adopted one) or still runs.
pub(crate) fn reap(pidfd: &OwnedFd) {
    // SAFETY: the descriptor is open for the whole call and the pointer is to a local; all-zero is a valid
    // `siginfo_t`.
    unsafe {
        let mut information: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_PIDFD,
            pidfd.as_raw_fd().cast_unsigned(),
            &raw mut information,
            libc::WEXITED | libc::WNOHANG | libc::__WALL,
        );
    }
}

/// When the process started, in clock ticks since boot: with the pid it names a process for good.
pub(crate) fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything; what follows its last parenthesis is regular.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| io::Error::other("unreadable /proc/<pid>/stat"))
}

/// Opens a process that an earlier server started, if it is still the very same.
pub(crate) fn adopt(pid: u32, ticks: u64) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    // Checked after opening: the descriptor cannot change its meaning any more.
    (start_ticks(pid).ok()? == ticks && !is_zombie(pid)).then_some(pidfd)
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])))
        .unwrap_or(true)
}
