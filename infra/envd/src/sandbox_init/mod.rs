//! Builds the sandbox around PID 1: what a container engine's child does between `clone` and `exec`, done as
//! ordinary single-threaded code because `sandboxd` executes this static binary first.
//!
//! `sandboxd` has already made the namespaces, the id map, the overlay mounts and the control groups. Here the
//! mounts are attached, the old root is left behind for good, loopback comes up, and privileges are given away:
//! capabilities down to a container engine's set, and a deny list of system calls. The order matters and is
//! explained where it does.

mod lockdown;
mod mounts;
mod network;
mod own_root;
mod receive;
mod seccomp;

use std::io::Write as _;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use pvm_e2b_wire::launch::{FAILED, Launch, READY};

/// What the daemon starts with after [`enter`].
#[derive(Debug)]
pub struct Entered {
    /// The server's instructions.
    pub launch: Launch,
    /// Listening unix socket, reachable by the server alone: every endpoint is served on it.
    pub control: OwnedFd,
    /// Listening unix socket for requests that the server passes on from outside: control endpoints are refused.
    pub data: OwnedFd,
}

/// Why the sandbox could not be set up: one sentence naming the step and the system's answer.
#[derive(Debug)]
pub struct EnterError(String);

impl EnterError {
    fn new(step: &str, cause: impl std::fmt::Display) -> Self {
        Self(format!("{step}: {cause}"))
    }
}

impl std::fmt::Display for EnterError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for EnterError {}

/// Sets up the sandbox as told over the inherited socket `config_fd` and answers the server there.
///
/// Must be called as PID 1 of fresh namespaces, before any thread or runtime is started: several of the steps
/// (id changes, capabilities, the system call filter) act on the calling thread and are inherited from it.
///
/// # Errors
/// Any failing step. The server has been told already; the caller only has to exit.
pub fn enter(config_fd: RawFd) -> Result<Entered, EnterError> {
    #[expect(unsafe_code, reason = "adopting the descriptor that the server put at this number")]
    // SAFETY: sandboxd passes the socket at exactly this number and nothing else in this process owns it.
    let mut socket = unsafe { UnixStream::from_raw_fd(config_fd) };
    match set_up(&mut socket) {
        Ok(entered) => {
            socket.write_all(&[READY]).map_err(|error| EnterError::new("telling the server", error))?;
            Ok(entered)
        }
        Err(error) => {
            let mut answer = vec![FAILED];
            answer.extend_from_slice(error.to_string().as_bytes());
            // The server may be gone, which is then also why setting up failed; exiting is all there is left.
            socket.write_all(&answer).ok();
            Err(error)
        }
    }
}

fn set_up(socket: &mut UnixStream) -> Result<Entered, EnterError> {
    // First, and before the id map is certain to be there: this blocks until the server sent it all.
    let (launch, mut descriptors) = receive::launch(socket)?;
    if descriptors.len() != launch.attach.len() + 2 {
        return Err(EnterError::new("reading the launch message", "descriptors are missing"));
    }
    let data = descriptors.pop().ok_or_else(|| EnterError::new("launch message", "no data listener"))?;
    let control =
        descriptors.pop().ok_or_else(|| EnterError::new("launch message", "no control listener"))?;

    let own_root = launch.own_root.as_ref();
    let single_id = own_root.is_some_and(|root| root.single_id);
    lockdown::become_namespace_root(single_id)?;
    mounts::build(&launch, descriptors)?;
    network::bring_up_loopback()?;
    network::set_sysctls();
    lockdown::set_hostname(&launch.hostname)?;
    // Where there are no control groups, the number of processes is bounded by the kernel's older limit.
    lockdown::set_limits(&launch.limits, own_root.is_some())?;
    lockdown::give_up_privileges(single_id)?;
    receive::keep_from_children(&control.as_fd(), &data.as_fd())?;
    Ok(Entered { launch, control, data })
}
