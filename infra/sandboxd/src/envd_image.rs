//! The envd binary, built into the server, as a sealed anonymous file: what runs as PID 1 of a sandbox cannot be
//! changed from inside and depends on nothing on the host's disk.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

static ENVD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envd"));

/// Makes the file.
pub(crate) fn sealed() -> io::Result<OwnedFd> {
    let mut file =
        std::fs::File::from(memfd_create("envd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(ENVD)?;
    // Anybody may execute it: the process that does is no user of the host yet.
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o555))?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}
