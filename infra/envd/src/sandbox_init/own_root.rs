//! The root of a plain user's sandbox: overlays and views that the server could not make, made here, where this process
//! is root over its own mounts.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use pvm_e2b_wire::launch::{OwnOverlay, OwnView};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use super::EnterError;

/// An overlay whose folders are open: what is mounted later may cover their paths.
pub(super) struct Overlay {
    target: String,
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

/// An open folder of the host.
pub(super) struct View {
    target: String,
    source: OwnedFd,
}

fn open(path: &str) -> Result<OwnedFd, EnterError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| EnterError::new(&format!("opening {path}"), error))
}

/// A name for an open folder that no mount can cover. It is also short, as the kernel wants its options, and has none
/// of their separators.
fn name(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

impl Overlay {
    /// Opens its folders.
    pub(super) fn open(overlay: &OwnOverlay) -> Result<Self, EnterError> {
        Ok(Self {
            target: overlay.target.clone(),
            lower: overlay.lower.iter().map(|path| open(path)).collect::<Result<_, _>>()?,
            upper: open(&overlay.upper)?,
            work: open(&overlay.work)?,
        })
    }

    /// Mounts it on a folder that is there.
    pub(super) fn put(&self, target: &Path) -> Result<(), EnterError> {
        let layers = self.lower.iter().map(name).collect::<Vec<_>>().join(":");
        // userxattr: without it, renaming a folder of a lower layer fails for everybody but the machine's root.
        let options = format!(
            "userxattr,volatile,lowerdir={layers},upperdir={},workdir={}",
            name(&self.upper),
            name(&self.work)
        );
        let options = CString::new(options).map_err(|error| EnterError::new("mount options", error))?;
        mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
            .map_err(|error| EnterError::new(&format!("mounting {}", self.target), error))
    }
}

impl View {
    /// Opens its folder.
    pub(super) fn open(view: &OwnView) -> Result<Self, EnterError> {
        Ok(Self { target: view.target.clone(), source: open(&view.source)? })
    }

    /// Shows it, read-only.
    pub(super) fn put(&self, target: &Path) -> Result<(), EnterError> {
        let failed = |error: rustix::io::Errno| EnterError::new(&format!("showing {}", self.target), error);
        mount_bind(name(&self.source), target).map_err(failed)?;
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        mount_remount(target, flags, c"").map_err(failed)
    }
}
