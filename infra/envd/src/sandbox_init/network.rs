//! The network namespace: loopback and two settings that programs expect.

use std::os::fd::AsRawFd as _;

use super::EnterError;

/// `lo` starts down in a new network namespace.
#[expect(unsafe_code, reason = "SIOCSIFFLAGS has no safe wrapper")]
pub(super) fn bring_up_loopback() -> Result<(), EnterError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .map_err(|error| EnterError::new("bringing up loopback", error))?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = (*byte).cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is an open socket, and the pointer is to an `ifreq` that outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if answer < 0 {
        return Err(EnterError::new("bringing up loopback", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Low ports for everybody and `ping` without a capability. Both belong to this network namespace; a kernel
/// without them still makes a usable sandbox, so failing is not an error.
pub(super) fn set_sysctls() {
    for (path, value) in [
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ("/proc/sys/net/ipv4/ping_group_range", "0 65534"),
    ] {
        std::fs::write(path, value).ok();
    }
}
