//! The root of a plain user's sandbox: overlays and views that the server could not make, made here, where this process
//! is root over its own mounts.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use pvm_e2b_wire::launch::{OwnOverlay, OwnView};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use super::EnterError;

/// Mounts an overlay on a folder that is there.
pub(super) fn mount_overlay(overlay: &OwnOverlay, target: &Path) -> Result<(), EnterError> {
    // By descriptors: the kernel's option text is short, and paths may hold its separators.
    let open = |path: &String| -> Result<OwnedFd, EnterError> {
        rustix::fs::open(path.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| EnterError::new(&format!("opening {path}"), error))
    };
    let lower = overlay.lower.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers = lower.iter().map(name).collect::<Vec<_>>().join(":");
    // userxattr: without it, renaming a folder of a lower layer fails for everybody but the machine's root.
    let options =
        format!("userxattr,volatile,lowerdir={layers},upperdir={},workdir={}", name(&upper), name(&work));
    let options = CString::new(options).map_err(|error| EnterError::new("mount options", error))?;
    mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|error| EnterError::new(&format!("mounting {}", overlay.target), error))
}

/// Shows a folder of the host, read-only.
pub(super) fn mount_view(view: &OwnView, target: &Path) -> Result<(), EnterError> {
    let failed = |error: rustix::io::Errno| EnterError::new(&format!("showing {}", view.target), error);
    mount_bind(view.source.as_str(), target).map_err(failed)?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(target, flags, c"").map_err(failed)
}
