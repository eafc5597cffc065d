//! The launch message: one JSON document with descriptors beside it.

use std::io::{IoSliceMut, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use pvm_e2b_wire::launch::{Launch, MAX_LAUNCH_BYTES, MAX_LAUNCH_FDS};
use rustix::cmsg_space;
use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::EnterError;

/// Bytes of the length in front of the document.
const LENGTH_BYTES: usize = 4;

/// Waits for the launch message. The server closing the socket instead means that it has no use for this
/// process (a spare one at shutdown, or the server died), which is an error like any other: we exit.
pub(super) fn launch(socket: &mut UnixStream) -> Result<(Launch, Vec<OwnedFd>), EnterError> {
    let mut space = vec![std::mem::MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_LAUNCH_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0_u8; LENGTH_BYTES];
    let received = loop {
        let answer = recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut length)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
        );
        match answer {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map_err(|error| EnterError::new("receiving the launch message", error))?,
        }
    };
    if received.bytes != LENGTH_BYTES {
        return Err(EnterError::new("receiving the launch message", "the server closed the connection"));
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_LAUNCH_BYTES {
        return Err(EnterError::new("receiving the launch message", "it is too long"));
    }
    let mut document = vec![0_u8; length];
    socket
        .read_exact(&mut document)
        .map_err(|error| EnterError::new("receiving the launch message", error))?;
    let launch = serde_json::from_slice(&document)
        .map_err(|error| EnterError::new("reading the launch message", error))?;
    Ok((launch, descriptors))
}

/// Makes sure that no process of the sandbox inherits the listeners.
pub(super) fn keep_from_children(control: &BorrowedFd<'_>, data: &BorrowedFd<'_>) -> Result<(), EnterError> {
    for descriptor in [control, data] {
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)
            .map_err(|error| EnterError::new("marking a listener close-on-exec", error))?;
    }
    Ok(())
}
