//! The sandbox's view of the file system, built from the mount descriptors that the server made.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use pvm_e2b_wire::launch::Launch;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};

use super::{EnterError, own_root};

/// Device nodes of the host that are harmless to everybody.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Folders of the host, one of which is there, that the new root may cover while it is built.
const STAGING: [&str; 4] = ["/tmp", "/mnt", "/dev", "/proc"];
/// Size of `/run`, in MiB: sockets, pid files and locks, charged to the sandbox's memory.
const RUN_MB: u64 = 64;

/// The sandbox's boot id, as seen from the folder that will be its root.
const BOOT_ID: &str = "run/pvm/boot_id";

type Step<T> = Result<T, EnterError>;

/// Attaches everything, then leaves the host's tree for good.
pub(super) fn build(launch: &Launch, descriptors: Vec<OwnedFd>) -> Step<()> {
    // Nothing done here may travel back to the host's mount namespace.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| EnterError::new("making the mounts private", error))?;
    // Device nodes cannot be made in a user namespace, so the host's are borrowed while its tree is visible.
    let devices = DEVICES
        .iter()
        .map(|name| clone_device(name).map(|mount| (*name, mount)))
        .collect::<Step<Vec<_>>>()?;

    let mut mounts = sources(launch, descriptors)?.into_iter();
    let (_, root) = mounts.next().ok_or_else(|| EnterError::new("attaching the root", "none was sent"))?;
    let staging = STAGING
        .iter()
        .find(|path| Path::new(path).is_dir())
        .ok_or_else(|| EnterError::new("attaching the root", "no folder to attach it to"))?;
    root.put(Path::new(staging))?;
    std::env::set_current_dir(staging).map_err(|error| EnterError::new("entering the new root", error))?;

    let single_id = launch.own_root.as_ref().is_some_and(|root| root.single_id);
    make_dev(&devices, launch.limits.memory_mb, single_id)?;
    mount_fresh("proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
    mount_fresh(
        "sysfs",
        "sys",
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        "",
    )?;
    make_run(launch)?;
    show_boot_id()?;
    for (target, source) in mounts {
        let inside = relative(target);
        make_folder(&inside)?;
        source.put(&inside)?;
    }
    leave_the_host()
}

/// What is mounted somewhere inside.
enum Source {
    /// A mount that the server made.
    Ready(OwnedFd),
    /// One that is made here.
    Overlay(own_root::Overlay),
    /// A folder of the host.
    View(own_root::View),
}

impl Source {
    fn put(&self, target: &Path) -> Step<()> {
        match self {
            Self::Ready(mount) => attach(mount, target),
            Self::Overlay(overlay) => overlay.put(target),
            Self::View(view) => view.put(target),
        }
    }
}

/// Everything to be mounted with its place, the root first.
fn sources(launch: &Launch, descriptors: Vec<OwnedFd>) -> Step<Vec<(&str, Source)>> {
    let sent = launch.attach.iter().map(String::as_str).zip(descriptors.into_iter().map(Source::Ready));
    let Some(own) = &launch.own_root else { return Ok(sent.collect()) };
    let overlays = own
        .overlays
        .iter()
        .map(|overlay| Ok((overlay.target.as_str(), Source::Overlay(own_root::Overlay::open(overlay)?))));
    let views =
        own.views.iter().map(|view| Ok((view.target.as_str(), Source::View(own_root::View::open(view)?))));
    overlays.chain(views).collect()
}

fn clone_device(name: &str) -> Step<OwnedFd> {
    open_tree(CWD, format!("/dev/{name}"), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|error| EnterError::new(&format!("borrowing /dev/{name}"), error))
}

fn attach(mount: &OwnedFd, target: &Path) -> Step<()> {
    move_mount(mount.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| EnterError::new(&format!("attaching {}", target.display()), error))
}

fn mount_fresh(kind: &str, target: &str, flags: MountFlags, options: &str) -> Step<()> {
    make_folder(Path::new(target))?;
    let options = std::ffi::CString::new(options).map_err(|error| EnterError::new("mount options", error))?;
    mount(kind, target, kind, flags, options.as_c_str())
        .map_err(|error| EnterError::new(&format!("mounting {kind} on /{target}"), error))
}

fn make_dev(devices: &[(&str, OwnedFd)], memory_mb: u64, single_id: bool) -> Step<()> {
    // mode=755: with tmpfs' default of 1777 a redirection to /dev/null fails (fs.protected_regular), and apt then
    // reports that gpgv is missing.
    mount_fresh("tmpfs", "dev", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=755,size=1m,nr_inodes=4096")?;
    for (name, mount) in devices {
        let path = PathBuf::from(format!("dev/{name}"));
        fs::File::create(&path).map_err(|error| EnterError::new("making a device node", error))?;
        attach(mount, &path)?;
    }
    mount_fresh(
        "devpts",
        "dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        // Group 5 (tty) is not there where there is one id only.
        if single_id {
            "newinstance,ptmxmode=0666,mode=0620"
        } else {
            "newinstance,ptmxmode=0666,mode=0620,gid=5"
        },
    )?;
    // tmpfs is charged to the sandbox's memory: half of it leaves room for the processes that use it.
    let options = format!("mode=1777,size={}m", (memory_mb / 2).max(16));
    mount_fresh("tmpfs", "dev/shm", MountFlags::NOSUID | MountFlags::NODEV, &options)?;
    for (link, target) in [
        ("dev/ptmx", "pts/ptmx"),
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).map_err(|error| EnterError::new(&format!("linking /{link}"), error))?;
    }
    Ok(())
}

fn make_run(launch: &Launch) -> Step<()> {
    let options = format!("mode=755,size={RUN_MB}m");
    mount_fresh("tmpfs", "run", MountFlags::NOSUID | MountFlags::NODEV, &options)?;
    make_folder(Path::new("run/lock"))?;
    make_folder(Path::new("run/pvm"))?;
    fs::set_permissions("run/lock", fs::Permissions::from_mode(0o1777))
        .map_err(|error| EnterError::new("opening /run/lock", error))?;
    fs::write(BOOT_ID, format!("{}\n", launch.boot_id))
        .map_err(|error| EnterError::new("writing /run/pvm/boot_id", error))
}

/// Shows the sandbox's own boot id where programs look for the machine's: it tells them that they were started anew,
/// and nothing about the host.
fn show_boot_id() -> Step<()> {
    let failed = |error: rustix::io::Errno| EnterError::new("showing the boot id", error);
    let file = open_tree(CWD, BOOT_ID, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(failed)?;
    let target = Path::new("proc/sys/kernel/random/boot_id");
    if target.exists() {
        attach(&file, target)?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> Step<()> {
    match fs::create_dir_all(path) {
        Err(error) if !path.is_dir() => Err(EnterError::new(&format!("making {}", path.display()), error)),
        _ => Ok(()),
    }
}

/// A path inside the sandbox, as seen from the folder that will be its root.
fn relative(target: &str) -> PathBuf {
    PathBuf::from(target.trim_start_matches('/'))
}

/// Makes the current folder the root and drops the host's tree, so that no path leads back.
fn leave_the_host() -> Step<()> {
    rustix::process::pivot_root(".", ".").map_err(|error| EnterError::new("changing the root", error))?;
    unmount(".", UnmountFlags::DETACH).map_err(|error| EnterError::new("leaving the old root", error))?;
    std::env::set_current_dir("/").map_err(|error| EnterError::new("entering /", error))?;
    let root = rustix::fs::open("/", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| EnterError::new("opening /", error))?;
    drop(root);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}
