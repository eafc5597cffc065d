//! Starting a process as a user, on pipes or on a terminal.
#![expect(
    unsafe_code,
    reason = "the steps between fork and exec: session, terminal, user and working directory"
)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use pvm_e2b_wire::process::PtySize;
use tokio::sync::oneshot;

use super::terminal::{self, Terminal};
use crate::accounts::Account;
use crate::reaper::{Ended, Reaper};

/// Added to the badness that the kernel's out-of-memory killer sees, so that it takes commands before this
/// daemon. The value is the official daemon's.
const OOM_SCORE: &str = "100";

/// Where a process gets its input from and puts its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Output on two pipes; input from a pipe (`true`) or from nothing.
    Pipes {
        /// Whether input can be written.
        stdin: bool,
    },
    /// All on a terminal of this size.
    Terminal(PtySize),
}

/// What to start.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The program: a path, or a name looked up in the environment's `PATH`.
    pub program: &'a str,
    /// Its arguments.
    pub arguments: &'a [String],
    /// The whole environment.
    pub environment: &'a BTreeMap<String, String>,
    /// Where it starts.
    pub directory: &'a Path,
    /// As whom.
    pub account: &'a Account,
    /// Input and output.
    pub streams: Streams,
}

/// Our ends of a process's streams.
#[derive(Debug)]
pub enum Ends {
    /// Of pipes.
    Pipes {
        /// To write input to, if asked for.
        stdin: Option<OwnedFd>,
        /// To read standard output from.
        stdout: OwnedFd,
        /// To read standard error from.
        stderr: OwnedFd,
    },
    /// The terminal's master side.
    Terminal(Terminal),
}

/// A process that was started. It leads its own session and process group.
#[derive(Debug)]
pub struct Started {
    /// Its process id.
    pub pid: u32,
    /// Our ends of its streams.
    pub ends: Ends,
    /// Tells its end.
    pub ended: oneshot::Receiver<Ended>,
}

/// Starts a process. A program that is not there or not executable is left to a shell to complain about, so
/// that the caller sees exit code 127 or 126 and a message, as at a prompt.
///
/// Must be called on the runtime's thread; see [`Reaper::register`].
///
/// # Errors
/// The system's: no more processes, no access to the directory, a NUL byte in an argument.
pub fn start(reaper: &Reaper, plan: &Plan<'_>) -> io::Result<Started> {
    let missing = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::ENOEXEC | libc::ENOTDIR))
    };
    match start_program(reaper, plan, plan.program, plan.arguments) {
        Err(error) if missing(&error) => {
            let mut arguments =
                vec!["-c".to_owned(), "exec \"$0\" \"$@\"".to_owned(), plan.program.to_owned()];
            arguments.extend_from_slice(plan.arguments);
            // When the shell fails as well, then it is not for the program's sake: the first error says more.
            start_program(reaper, plan, "/bin/sh", &arguments).map_err(|_| error)
        }
        other => other,
    }
}

fn start_program(
    reaper: &Reaper,
    plan: &Plan<'_>,
    program: &str,
    arguments: &[String],
) -> io::Result<Started> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(plan.environment);
    let (ends, controlling) = connect(&mut command, plan)?;
    let identity = Identity::of(plan, controlling)?;
    // SAFETY: the closure runs in the forked child before exec. It allocates nothing and takes no lock: it only
    // makes system calls on values made beforehand (see `Identity::assume`).
    unsafe { command.pre_exec(move || identity.assume()) };
    let child = command.spawn()?;
    let pid = child.id();
    let ended = reaper.register(pid);
    // The reaper waits for it. The process may be gone already, and a sandbox may not allow it.
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE).ok();
    Ok(Started { pid, ends, ended })
}

/// Gives the command its streams and keeps our ends. The second value is the number of the terminal in the
/// child.
fn connect(command: &mut Command, plan: &Plan<'_>) -> io::Result<(Ends, Option<RawFd>)> {
    match plan.streams {
        Streams::Pipes { stdin } => {
            let input = if stdin {
                let (reader, writer) = io::pipe()?;
                command.stdin(reader);
                Some(OwnedFd::from(writer))
            } else {
                command.stdin(Stdio::null());
                None
            };
            let (stdout, output) = io::pipe()?;
            let (stderr, errors) = io::pipe()?;
            command.stdout(output).stderr(errors);
            Ok((Ends::Pipes { stdin: input, stdout: stdout.into(), stderr: stderr.into() }, None))
        }
        Streams::Terminal(size) => {
            let (terminal, slave) = terminal::open(size, plan.account)?;
            command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            // By then the terminal is standard input.
            Ok((Ends::Terminal(terminal), Some(libc::STDIN_FILENO)))
        }
    }
}

/// Who the child becomes and where it starts, made ready before the fork.
struct Identity {
    user: libc::uid_t,
    group: libc::gid_t,
    groups: Vec<libc::gid_t>,
    /// Whether we may change users at all: a daemon started by a plain user can only start processes as that.
    privileged: bool,
    /// Whether the child stays who we are. Then it may keep our groups, which a sandbox with a single id
    /// cannot change.
    same: bool,
    directory: CString,
    controlling: Option<RawFd>,
}

impl Identity {
    fn of(plan: &Plan<'_>, controlling: Option<RawFd>) -> io::Result<Self> {
        Ok(Self {
            user: plan.account.uid,
            group: plan.account.gid,
            groups: plan.account.groups.clone(),
            privileged: rustix::process::geteuid().is_root(),
            same: rustix::process::geteuid().as_raw() == plan.account.uid
                && rustix::process::getegid().as_raw() == plan.account.gid,
            directory: CString::new(plan.directory.as_os_str().as_bytes())?,
            controlling,
        })
    }

    /// Called in the child: nothing here may allocate, lock or panic.
    fn assume(&self) -> io::Result<()> {
        // SAFETY: plain system calls of a single-threaded child. The pointers are to memory that the parent
        // made and that this child has a copy of.
        unsafe {
            check(libc::setsid())?;
            if let Some(terminal) = self.controlling {
                check(libc::ioctl(terminal, libc::TIOCSCTTY, 0))?;
            }
            if self.privileged {
                if let Err(error) = check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))
                    && !self.same
                {
                    return Err(error);
                }
                check(libc::setgid(self.group))?;
                check(libc::setuid(self.user))?;
            }
            // As the user: a directory that it may not enter is an error here, not a loophole.
            check(libc::chdir(self.directory.as_ptr()))
        }
    }
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal to a process's whole group.
///
/// # Errors
/// `ESRCH` when nothing of the group is left.
pub fn signal_group(pid: u32, signal: rustix::process::Signal) -> io::Result<()> {
    let group = rustix::process::Pid::from_raw(pid.cast_signed())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    rustix::process::kill_process_group(group, signal).map_err(Into::into)
}
