//! Root file systems as detached mounts: read-only layers whose owners are shifted into the sandbox's id range,
//! and the sandbox's own writable layer above them. Nothing is attached in the host's mount tree.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

/// Kernels before 6.13 take overlay layers by path only. Found out once, at the first refusal.
static LAYERS_BY_PATH: AtomicBool = AtomicBool::new(false);

/// What one overlay is made of.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// Read-only folders, the topmost first; owned by ids 0 to 65,535.
    pub(crate) lower: &'a [PathBuf],
    /// Writable folder, owned by the sandbox's range.
    pub(crate) upper: &'a Path,
    /// Scratch folder of the overlay, on the same file system as `upper`.
    pub(crate) work: &'a Path,
}

/// Makes an overlay for the sandbox whose user namespace is `user_namespace`.
///
/// `scratch` is an empty folder that older kernels need; it is covered only in the calling thread's own mount
/// namespace, and uncovered again.
pub(crate) fn make(
    layers: &Layers<'_>,
    user_namespace: BorrowedFd<'_>,
    scratch: &Path,
) -> io::Result<OwnedFd> {
    let lower =
        layers.lower.iter().map(|folder| shifted(folder, user_namespace)).collect::<io::Result<Vec<_>>>()?;
    if !LAYERS_BY_PATH.load(Ordering::Relaxed) {
        match by_descriptor(layers, &lower) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                LAYERS_BY_PATH.store(true, Ordering::Relaxed);
            }
            other => return other,
        }
    }
    by_path(layers, &lower, scratch)
}

/// A read-only copy of the folder `source` of the host as a mount, without a shift of owners.
pub(crate) fn read_only_view(source: &Path) -> io::Result<OwnedFd> {
    let mount = clone_tree(source)?;
    set_attributes(
        &mount,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        None,
    )?;
    Ok(mount)
}

/// A read-only copy of `folder` as a mount, in which the ids 0 to 65,535 appear as the sandbox's.
fn shifted(folder: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mount = clone_tree(folder)?;
    set_attributes(&mount, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_IDMAP, Some(user_namespace))?;
    Ok(mount)
}

fn clone_tree(folder: &Path) -> io::Result<OwnedFd> {
    open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|error| at(folder, error))
}

fn set_attributes(mount: &OwnedFd, set: u64, user_namespace: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: user_namespace.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    // SAFETY: the path is an empty C string, the structure a local whose size is passed with it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn by_descriptor(layers: &Layers<'_>, lower: &[OwnedFd]) -> io::Result<OwnedFd> {
    let context = open_context()?;
    for layer in lower {
        fsconfig_set_fd(context.as_fd(), "lowerdir+", layer)?;
    }
    let folder = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| at(path, error))
    };
    fsconfig_set_fd(context.as_fd(), "upperdir", folder(layers.upper)?)?;
    fsconfig_set_fd(context.as_fd(), "workdir", folder(layers.work)?)?;
    finish(&context)
}

/// The older way: the layers must be attached somewhere while the overlay is made.
fn by_path(layers: &Layers<'_>, lower: &[OwnedFd], scratch: &Path) -> io::Result<OwnedFd> {
    let mut attached = Attached::default();
    for (index, layer) in lower.iter().enumerate() {
        let point = scratch.join(index.to_string());
        std::fs::create_dir_all(&point)?;
        move_mount(layer.as_fd(), "", CWD, &point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        attached.0.push(point);
    }
    let context = open_context()?;
    let names: Vec<_> = attached.0.iter().map(|point| escaped(point)).collect();
    fsconfig_set_string(context.as_fd(), "lowerdir", names.join(":"))?;
    fsconfig_set_string(context.as_fd(), "upperdir", layers.upper)?;
    fsconfig_set_string(context.as_fd(), "workdir", layers.work)?;
    finish(&context)
}

/// Mount points that are detached again when the overlay has its own references.
#[derive(Debug, Default)]
struct Attached(Vec<PathBuf>);

impl Drop for Attached {
    fn drop(&mut self) {
        for point in &self.0 {
            if let Err(error) = unmount(point, UnmountFlags::DETACH) {
                tracing::warn!(%error, point = %point.display(), "a layer stays attached");
            }
        }
    }
}

/// In a list of layers, a colon and a backslash in a path stand for themselves only behind a backslash.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:")
}

fn open_context() -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "sandbox")?;
    // Renaming a folder of the template must work as on any disk. The index would tie layers to file handles,
    // metacopy would make a layer useless without the ones below it.
    for (key, value) in [("redirect_dir", "on"), ("index", "off"), ("metacopy", "off"), ("xino", "auto")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    // Without this, ending a sandbox would write the whole disk out first (an overlay syncs all of its upper file
    // system when it is unmounted), and so would every fsync of a package manager inside. What it costs: when the
    // machine itself loses power, a sandbox's latest writes may be lost, synced or not.
    fsconfig_set_flag(context.as_fd(), "volatile")?;
    Ok(context)
}

fn finish(context: &OwnedFd) -> io::Result<OwnedFd> {
    fsconfig_create(context.as_fd()).map_err(|error| explain(context, error))?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(mount)
}

/// Adds what the kernel wrote about its refusal.
fn explain(context: &OwnedFd, error: rustix::io::Errno) -> io::Error {
    let mut text = [0_u8; 512];
    match rustix::io::read(context, &mut text) {
        Ok(length) if length > 0 => {
            let message = String::from_utf8_lossy(&text[..length]);
            let kind = io::Error::from(error).kind();
            if error == rustix::io::Errno::INVAL {
                // Kept as it is: the caller tells an old kernel by this number.
                tracing::debug!(message = message.trim(), "the kernel refused an overlay");
                return error.into();
            }
            io::Error::new(kind, format!("{error} ({})", message.trim()))
        }
        _ => error.into(),
    }
}

fn at(path: &Path, error: rustix::io::Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::process::{Child, Command, Stdio};

    /// A process that keeps a user namespace with an id map open.
    struct Keeper(Child);

    impl Keeper {
        fn start() -> (Self, fs::File) {
            let mut child = Command::new("unshare")
                .args(["--user", "--map-root-user", "sh", "-c", "echo ready; exec sleep 60"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut word = [0_u8; 6];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
            let namespace = fs::File::open(format!("/proc/{}/ns/user", child.id())).unwrap();
            (Self(child), namespace)
        }
    }

    impl Drop for Keeper {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    /// Makes an overlay of two layers and a scratch folder, by one of the ways, and looks at it.
    fn check(make: impl FnOnce(&Layers<'_>, &[OwnedFd], &Path) -> io::Result<OwnedFd>) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["top", "bottom", "upper", "work", "scratch:1"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("bottom").join("both"), "bottom").unwrap();
        fs::write(path("bottom").join("low"), "low").unwrap();
        fs::write(path("top").join("both"), "top").unwrap();
        let (_keeper, namespace) = Keeper::start();
        let lower = [path("top"), path("bottom")];
        let layers = Layers { lower: &lower, upper: &path("upper"), work: &path("work") };
        let shifted: Vec<_> =
            lower.iter().map(|folder| shifted(folder, namespace.as_fd()).unwrap()).collect();
        let mount = make(&layers, &shifted, &path("scratch:1")).unwrap();
        let inside = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        assert_eq!(fs::read_to_string(inside.join("both")).unwrap(), "top");
        assert_eq!(fs::read_to_string(inside.join("low")).unwrap(), "low");
        fs::write(inside.join("new"), "new").unwrap();
        assert_eq!(fs::read_to_string(path("upper").join("new")).unwrap(), "new");
        assert_eq!(fs::metadata(path("bottom").join("low")).unwrap().uid(), 0);
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains("scratch"), "{mounts}");
    }

    #[test]
    fn layers_are_taken_by_descriptor() {
        std::thread::spawn(|| {
            super::super::spawner::own_mounts().unwrap();
            check(|layers, lower, _| by_descriptor(layers, lower));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn layers_are_taken_by_path_as_older_kernels_need_it() {
        std::thread::spawn(|| {
            super::super::spawner::own_mounts().unwrap();
            check(by_path);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn special_characters_of_layer_paths_are_escaped() {
        assert_eq!(escaped(Path::new("/a:b\\c")), "/a\\:b\\\\c");
    }
}
