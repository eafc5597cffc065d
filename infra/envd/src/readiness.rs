//! Waiting for descriptors that tokio has no type for.
#![expect(unsafe_code, reason = "registering a descriptor asks for a promise about its life")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes a non-blocking descriptor something to wait for. Must be called on the runtime.
///
/// # Errors
/// The system's.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned and moves into the `AsyncFd`, which deregisters it before it is closed;
    // nothing here replaces or closes it before.
    unsafe { AsyncFd::register(descriptor) }.map_err(Into::into)
}
