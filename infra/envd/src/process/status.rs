//! How an end is told, in the words that clients of the official daemon know.

use pvm_e2b_wire::process::EndEvent;

use crate::reaper::Ended;

/// The event of an end.
pub fn end_event(ended: Ended) -> EndEvent {
    match ended {
        Ended::Exited(code) => {
            let status = format!("exit status {code}");
            let error = (code != 0).then(|| status.clone());
            EndEvent { exit_code: code, exited: true, status, error }
        }
        Ended::Signaled { signal, core_dumped } => {
            let core = if core_dumped { " (core dumped)" } else { "" };
            let status = format!("signal: {}{core}", description(signal));
            EndEvent { exit_code: -1, exited: false, error: Some(status.clone()), status }
        }
    }
}

/// The event of an end that was not seen.
pub fn unknown() -> EndEvent {
    let status = "unknown".to_owned();
    EndEvent { exit_code: -1, exited: false, error: Some(status.clone()), status }
}

/// What a signal does, as the official daemon's language puts it.
fn description(signal: i32) -> String {
    let known = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    known.to_owned()
}

/// A signal's name, `SIGKILL` and the like.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "HUP",
        libc::SIGINT => "INT",
        libc::SIGQUIT => "QUIT",
        libc::SIGILL => "ILL",
        libc::SIGTRAP => "TRAP",
        libc::SIGABRT => "ABRT",
        libc::SIGBUS => "BUS",
        libc::SIGFPE => "FPE",
        libc::SIGKILL => "KILL",
        libc::SIGUSR1 => "USR1",
        libc::SIGSEGV => "SEGV",
        libc::SIGUSR2 => "USR2",
        libc::SIGPIPE => "PIPE",
        libc::SIGALRM => "ALRM",
        libc::SIGTERM => "TERM",
        libc::SIGXCPU => "XCPU",
        libc::SIGXFSZ => "XFSZ",
        libc::SIGSYS => "SYS",
        other => return format!("SIG{other}"),
    };
    format!("SIG{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_exit_has_no_error() {
        let end = end_event(Ended::Exited(0));
        assert_eq!(
            (end.exit_code, end.exited, end.status.as_str(), end.error),
            (0, true, "exit status 0", None)
        );
    }

    #[test]
    fn a_failure_tells_its_code_twice() {
        let end = end_event(Ended::Exited(3));
        assert_eq!((end.exit_code, end.error.as_deref()), (3, Some("exit status 3")));
    }

    #[test]
    fn a_signal_is_no_exit() {
        let end = end_event(Ended::Signaled { signal: libc::SIGKILL, core_dumped: false });
        assert_eq!((end.exit_code, end.exited, end.status.as_str()), (-1, false, "signal: killed"));
        assert_eq!(signal_name(libc::SIGKILL), "SIGKILL");
    }
}
