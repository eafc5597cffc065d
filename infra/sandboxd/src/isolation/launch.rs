//! The launch message from the server's side: what turns a waiting shell into a sandbox.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pvm_e2b_wire::launch::{FAILED, Launch, MAX_LAUNCH_FDS, READY};
use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// How long the set-up inside may take. It takes about a millisecond; a machine that needs longer than this is
/// in trouble, and the caller must not hang with it.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest sentence about a failure that is read.
const MAX_REASON_BYTES: u64 = 4096;

/// Sends the message with its descriptors (mounts in the order of `launch.attach`, then the control and the data
/// listener) and waits for the sandbox to be set up.
pub(crate) fn send(
    mut socket: UnixStream,
    launch: &Launch,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if descriptors.len() > MAX_LAUNCH_FDS {
        return Err(io::Error::other("the template has too many layers"));
    }
    let document = serde_json::to_vec(launch)?;
    let length = u32::try_from(document.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = vec![std::mem::MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_LAUNCH_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    // The descriptors travel with the length's bytes.
    let sent = sendmsg(socket.as_fd(), &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent != length.len() {
        return Err(io::Error::other("the launch message was cut"));
    }
    socket.write_all(&document)?;
    socket.set_read_timeout(Some(SET_UP_TIMEOUT))?;
    let mut answer = [0_u8];
    match socket.read(&mut answer) {
        Ok(1) if answer[0] == READY => Ok(()),
        Ok(1) if answer[0] == FAILED => {
            let mut reason = String::new();
            socket.take(MAX_REASON_BYTES).read_to_string(&mut reason)?;
            Err(io::Error::other(reason))
        }
        Ok(_) => Err(io::Error::other("the sandbox's first process ended while it was set up")),
        Err(error) => Err(error),
    }
}
