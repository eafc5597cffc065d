//! The thread that makes sandboxes. It has a mount namespace of its own, so that nothing it does can show in the
//! host's, and it may block, so that no server task ever does. What does not depend on a request is prepared by a
//! second thread, see [`super::spares`].

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pvm_e2b_wire::launch::{Launch, LaunchLimits, OwnOverlay, OwnRoot, OwnView};
use tokio::sync::oneshot;

use super::cgroup::{Group, Groups};
use super::clone::Shell;
use super::ids::IdRange;
use super::mode::{self, Isolation};
use super::overlay::{self, Layers};
use super::spares::{Spare, Spares};
use super::{launch, process};

/// How long stopping may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Its control groups, with its limits.
    pub(crate) group: Group,
}

struct Order {
    blueprint: Box<Blueprint>,
    answer: oneshot::Sender<io::Result<Started>>,
}

/// Handle of the thread. When the last clone is dropped, the thread ends and its spare shells with it.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    orders: Sender<Order>,
    /// Closed by the thread when it has put everything away.
    ended: Arc<Mutex<Receiver<()>>>,
}

impl Spawner {
    /// Starts the threads. `image` is the sealed envd; `log`, when given, receives what envd writes to standard
    /// error; `limits` are the ones that most sandboxes have.
    ///
    /// # Errors
    /// When a thread, its mount namespace or the first shell cannot be made: this machine cannot run sandboxes.
    pub(crate) fn start(
        image: &OwnedFd,
        log: Option<&OwnedFd>,
        groups: Groups,
        limits: LaunchLimits,
    ) -> io::Result<Self> {
        let spares = Spares::start(image, log, groups, limits)?;
        let (orders, queue) = channel::<Order>();
        let (ready, answer) = channel::<io::Result<()>>();
        let (running, ended) = channel::<()>();
        std::thread::Builder::new().name("sandbox-spawner".into()).spawn(move || {
            let prepared = own_mounts();
            let failed = prepared.is_err();
            // The starter waits for exactly this; if it is gone, nobody is left to tell.
            if ready.send(prepared).is_ok() && !failed {
                serve(&spares, &queue);
            }
            spares.stop();
            drop(running);
        })?;
        answer.recv().map_err(io::Error::other)??;
        Ok(Self { orders, ended: Arc::new(Mutex::new(ended)) })
    }

    /// Ends the thread and its spare shells, and waits for that. Blocks.
    pub(crate) fn stop(self) {
        let Self { orders, ended } = self;
        drop(orders);
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        // An error is the very end that is waited for; the limit is for a thread stuck in the kernel.
        ended.recv_timeout(STOP_TIMEOUT).ok();
    }

    /// Starts a sandbox. A failure leaves no process.
    pub(crate) async fn spawn(&self, blueprint: Blueprint) -> io::Result<Started> {
        let (answer, result) = oneshot::channel();
        self.orders
            .send(Order { blueprint: Box::new(blueprint), answer })
            .map_err(|_| io::Error::other("the spawner thread has ended"))?;
        result.await.map_err(|_| io::Error::other("the spawner thread has ended"))?
    }
}

/// A mount namespace of this thread's own, where it is allowed one; a plain user's thread mounts nothing.
#[expect(unsafe_code, reason = "leaving the process's mount namespace is unsafe by its interface")]
pub(super) fn own_mounts() -> io::Result<()> {
    if !Isolation::current().is_root() {
        return Ok(());
    }
    // SAFETY: only this thread's own view of mounts and working directory changes; it was started for this and
    // runs no code that relies on sharing them.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    // Later mounts of the host still arrive, ours never travel back.
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC,
    )?;
    Ok(())
}

fn serve(spares: &Arc<Spares>, queue: &Receiver<Order>) {
    while let Ok(order) = queue.recv() {
        let result = spares.take().and_then(|spare| {
            let Spare { shell: Shell { pid, pidfd, socket }, group } = spare;
            match become_sandbox(pid, socket, &group, spares.limits(), &order.blueprint) {
                Ok(start_ticks) => Ok(Started { pid, start_ticks, pidfd, group }),
                Err(error) => {
                    discard(&pidfd, &group);
                    Err(error)
                }
            }
        });
        if let Err(Ok(started)) = order.answer.send(result) {
            // Nobody waits any more: what nobody knows of must not run.
            discard(&started.pidfd, &started.group);
        }
    }
}

/// Gives a shell its ids, limits, root and instructions.
fn become_sandbox(
    pid: u32,
    socket: UnixStream,
    group: &Group,
    present: &LaunchLimits,
    blueprint: &Blueprint,
) -> io::Result<u64> {
    let mode = Isolation::current();
    if !mode.is_root() {
        return become_plain_sandbox(pid, socket, mode, blueprint);
    }
    let map = blueprint.range.map();
    std::fs::write(format!("/proc/{pid}/uid_map"), &map)
        .map_err(|error| step("writing the id map", &error))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), &map)
        .map_err(|error| step("writing the id map", &error))?;
    if blueprint.launch.limits != *present {
        group.limit(&blueprint.launch.limits).map_err(|error| step("setting the limits", &error))?;
    }
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

/// The same for the server of a plain user: the mounts are left to envd, which is root over its own.
fn become_plain_sandbox(
    pid: u32,
    socket: UnixStream,
    mode: Isolation,
    blueprint: &Blueprint,
) -> io::Result<u64> {
    mode::write_maps(pid, mode).map_err(|error| step("writing the id map", &error))?;
    let text = |path: &PathBuf| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| io::Error::other("the state folder's path is not UTF-8"))
    };
    let overlays = blueprint.parts.iter().map(|part| {
        Ok(OwnOverlay {
            target: part.target.clone(),
            lower: part.lower.iter().map(text).collect::<io::Result<_>>()?,
            upper: text(&part.upper)?,
            work: text(&part.work)?,
        })
    });
    let views = blueprint
        .views
        .iter()
        .map(|view| Ok(OwnView { target: view.target.clone(), source: text(&view.source)? }));
    let mut message = blueprint.launch.clone();
    message.attach.clear();
    message.own_root = Some(OwnRoot {
        overlays: overlays.collect::<io::Result<_>>()?,
        views: views.collect::<io::Result<_>>()?,
        single_id: mode == Isolation::Single,
    });
    launch::send(socket, &message, &[blueprint.control.as_fd(), blueprint.data.as_fd()])?;
    process::start_ticks(pid)
}

fn step(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Ends a process that is ours, takes its exit status, and removes its groups.
pub(super) fn discard(pidfd: &OwnedFd, group: &Group) {
    let ended = process::signal(pidfd, rustix::process::Signal::KILL).and_then(|()| {
        // Becomes readable when the process has ended; it takes a moment at most.
        let mut waited = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: 5, tv_nsec: 0 };
        rustix::event::poll(&mut waited, Some(&limit))?;
        process::reap(pidfd);
        group.remove()
    });
    if let Err(error) = ended {
        tracing::warn!(%error, "a sandbox process could not be ended");
    }
}
