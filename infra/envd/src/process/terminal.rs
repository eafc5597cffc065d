//! Pseudo-terminals: the master side, read and written without blocking.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use pvm_e2b_wire::process::PtySize;
use rustix::fs::{Gid, OFlags, Uid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;

use crate::accounts::Account;
use crate::readiness;

/// Size of a terminal whose client names none.
const DEFAULT_SIZE: PtySize = PtySize { cols: 80, rows: 24 };

/// Our side of a terminal.
#[derive(Debug, Clone)]
pub struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
}

/// Opens a terminal that belongs to the user and returns our side and the process's.
///
/// # Errors
/// The system's, such as `ENOSPC` when there are no more terminals.
pub(super) fn open(size: PtySize, account: &Account) -> io::Result<(Terminal, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = open_slave(&name)?;
    // Programs that open their terminal again by name do it as the user. Without the right, it stays as it is.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(account.uid)), None::<Gid>).ok();
    rustix::fs::fcntl_setfl(&master, rustix::fs::fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
    let terminal = Terminal { master: Arc::new(readiness::watch(master)?) };
    terminal.resize(size)?;
    Ok((terminal, slave))
}

fn open_slave(name: &CStr) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?;
    Ok(file.into())
}

impl Terminal {
    /// Sets the size; 0 in a dimension means the default.
    ///
    /// # Errors
    /// The system's.
    pub fn resize(&self, size: PtySize) -> io::Result<()> {
        let pick = |value: u32, default: u32| {
            u16::try_from(if value == 0 { default } else { value }).unwrap_or(u16::MAX)
        };
        let size = Winsize {
            ws_row: pick(size.rows, DEFAULT_SIZE.rows),
            ws_col: pick(size.cols, DEFAULT_SIZE.cols),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(self.master.get_ref().as_fd(), size).map_err(Into::into)
    }

    /// Reads what is there; waits for something. 0 at the end, which a terminal tells as an input error.
    ///
    /// # Errors
    /// The system's.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|master| Ok(rustix::io::read(master.get_ref(), &mut *buffer)?)) {
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes all of it, waiting while the other side does not read.
    ///
    /// # Errors
    /// The system's; an input error when the process is gone.
    pub async fn write(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|master| Ok(rustix::io::write(master.get_ref(), data)?)) {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(written)) => data = &data[written..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}
