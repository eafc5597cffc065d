//! The thread that makes sandboxes. It has a mount namespace of its own, so that nothing it does can show in the
//! host's, and it may block (cloning stops it until the child runs), so that no server task ever does.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use pvm_e2b_wire::launch::Launch;
use tokio::sync::oneshot;

use super::cgroup::Group;
use super::clone::{Cloner, Shell};
use super::ids::IdRange;
use super::overlay::{self, Layers};
use super::{launch, process};

/// Empty shells kept ready: envd waiting in new namespaces, with no root, no id map and no command. Making them
/// is most of the cost of a create, and it does not depend on what is asked for.
const SPARE_SHELLS: usize = 4;
/// How long the thread waits for work before it makes a spare shell: a burst of creates is served first.
const IDLE_BEFORE_SPARE: Duration = Duration::from_millis(2);

/// One overlay to make and where to attach it.
#[derive(Debug)]
pub(crate) struct RootPart {
    /// Absolute path inside; the first part's is `/`.
    pub(crate) target: String,
    /// Read-only folders, topmost first.
    pub(crate) lower: Vec<PathBuf>,
    /// Writable folder.
    pub(crate) upper: PathBuf,
    /// Scratch folder of the overlay.
    pub(crate) work: PathBuf,
}

/// A folder of the host that is shown inside, read-only.
#[derive(Debug)]
pub(crate) struct View {
    /// Absolute path inside.
    pub(crate) target: String,
    /// Folder on the host.
    pub(crate) source: PathBuf,
}

/// Everything needed to start one sandbox.
#[derive(Debug)]
pub(crate) struct Blueprint {
    /// What envd is told; `attach` is filled in here.
    pub(crate) launch: Launch,
    /// Its ids on the host.
    pub(crate) range: IdRange,
    /// Overlays, `/` first.
    pub(crate) parts: Vec<RootPart>,
    /// Host folders shown inside.
    pub(crate) views: Vec<View>,
    /// Its control groups, made already.
    pub(crate) group: Group,
    /// Listener for the server alone.
    pub(crate) control: UnixListener,
    /// Listener for requests from outside.
    pub(crate) data: UnixListener,
    /// Empty folder for kernels that need the layers attached.
    pub(crate) scratch: PathBuf,
}

/// A sandbox's first process, set up and serving.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) pidfd: OwnedFd,
}

struct Order {
    blueprint: Box<Blueprint>,
    answer: oneshot::Sender<io::Result<Started>>,
}

/// Handle of the thread. When the last clone is dropped, the thread ends and its spare shells with it.
#[derive(Debug, Clone)]
pub(crate) struct Spawner(Sender<Order>);

impl Spawner {
    /// Starts the thread. `image` is the sealed envd; `log`, when given, receives what envd writes to standard
    /// error.
    ///
    /// # Errors
    /// When the thread, its mount namespace or the first shell cannot be made: this machine cannot run
    /// sandboxes.
    pub(crate) fn start(image: OwnedFd, log: Option<OwnedFd>) -> io::Result<Self> {
        let (orders, queue) = channel::<Order>();
        let (ready, answer) = channel::<io::Result<()>>();
        std::thread::Builder::new().name("sandbox-spawner".into()).spawn(move || {
            match prepare(&image, log.as_ref()) {
                Ok((mut cloner, first)) => {
                    if ready.send(Ok(())).is_ok() {
                        serve(&mut cloner, first, &queue);
                    }
                }
                Err(error) => {
                    // The starter waits for exactly this; if it is gone, nobody is left to tell.
                    ready.send(Err(error)).ok();
                }
            }
        })?;
        answer.recv().map_err(io::Error::other)??;
        Ok(Self(orders))
    }

    /// Starts a sandbox. A failure leaves no process.
    pub(crate) async fn spawn(&self, blueprint: Blueprint) -> io::Result<Started> {
        let (answer, result) = oneshot::channel();
        self.0
            .send(Order { blueprint: Box::new(blueprint), answer })
            .map_err(|_| io::Error::other("the spawner thread has ended"))?;
        result.await.map_err(|_| io::Error::other("the spawner thread has ended"))?
    }
}

#[expect(unsafe_code, reason = "leaving the process's mount namespace is unsafe by its interface")]
fn prepare(image: &OwnedFd, log: Option<&OwnedFd>) -> io::Result<(Cloner, Shell)> {
    // Signals are for the server's other threads; see `Cloner::spawn` for why none may arrive here.
    // SAFETY: only this thread's mask and its own view of mounts and working directory change; the thread was
    // started for this and shares neither with code that relies on them.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
    }
    // Later mounts of the host still arrive, ours never travel back.
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC,
    )?;
    let mut cloner = Cloner::new(image, log)?;
    let first = cloner.spawn()?;
    Ok((cloner, first))
}

fn serve(cloner: &mut Cloner, first: Shell, queue: &Receiver<Order>) {
    let mut spares = VecDeque::from([first]);
    loop {
        let order = if spares.len() < SPARE_SHELLS {
            match queue.recv_timeout(IDLE_BEFORE_SPARE) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => {
                    match cloner.spawn() {
                        Ok(shell) => spares.push_back(shell),
                        Err(error) => {
                            // Out of processes or memory just now: wait for real work instead of spinning.
                            tracing::warn!(%error, "no spare sandbox process could be started");
                            match queue.recv() {
                                Ok(order) => answer(cloner, &mut spares, order),
                                Err(_) => break,
                            }
                        }
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        } else {
            match queue.recv() {
                Ok(order) => order,
                Err(_) => break,
            }
        };
        answer(cloner, &mut spares, order);
    }
    for shell in spares {
        discard(shell);
    }
}

fn answer(cloner: &mut Cloner, spares: &mut VecDeque<Shell>, order: Order) {
    let result = spares.pop_front().map_or_else(|| cloner.spawn(), Ok).and_then(|shell| {
        let Shell { pid, pidfd, socket } = shell;
        match become_sandbox(pid, socket, &order.blueprint) {
            Ok(start_ticks) => Ok(Started { pid, start_ticks, pidfd }),
            Err(error) => {
                end(&pidfd);
                Err(error)
            }
        }
    });
    if let Err(Ok(started)) = order.answer.send(result) {
        // Nobody waits any more: what nobody knows of must not run.
        end(&started.pidfd);
    }
}

/// Gives a shell its ids, groups, root and instructions.
fn become_sandbox(pid: u32, socket: std::os::unix::net::UnixStream, blueprint: &Blueprint) -> io::Result<u64> {
    let map = blueprint.range.map();
    std::fs::write(format!("/proc/{pid}/uid_map"), &map).map_err(|error| step("writing the id map", &error))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), &map).map_err(|error| step("writing the id map", &error))?;
    blueprint.group.add(pid).map_err(|error| step("joining the control groups", &error))?;
    let user_namespace = std::fs::File::open(format!("/proc/{pid}/ns/user"))?;
    let mut mounts = Vec::with_capacity(blueprint.parts.len() + blueprint.views.len());
    let mut message = blueprint.launch.clone();
    message.attach.clear();
    for part in &blueprint.parts {
        let layers = Layers { lower: &part.lower, upper: &part.upper, work: &part.work };
        let mount = overlay::make(&layers, user_namespace.as_fd(), &blueprint.scratch)
            .map_err(|error| step("making the root file system", &error))?;
        message.attach.push(part.target.clone());
        mounts.push(mount);
    }
    for view in &blueprint.views {
        mounts.push(overlay::read_only_view(&view.source).map_err(|error| step("showing a folder", &error))?);
        message.attach.push(view.target.clone());
    }
    let descriptors: Vec<_> = mounts
        .iter()
        .map(|mount| mount.as_fd())
        .chain([blueprint.control.as_fd(), blueprint.data.as_fd()])
        .collect();
    launch::send(socket, &message, &descriptors)?;
    process::start_ticks(pid)
}

fn step(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

fn discard(shell: Shell) {
    end(&shell.pidfd);
}

/// Ends a process that is ours and takes its exit status.
fn end(pidfd: &OwnedFd) {
    if let Err(error) = process::signal(pidfd, rustix::process::Signal::KILL) {
        tracing::warn!(%error, "a sandbox process could not be ended");
        return;
    }
    // Becomes readable when the process has ended; it takes a moment at most.
    let mut waited = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::time::Timespec { tv_sec: 5, tv_nsec: 0 };
    rustix::event::poll(&mut waited, Some(&limit)).ok();
    process::reap(pidfd);
}
