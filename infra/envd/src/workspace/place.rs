//! Making entries below a root without ever leaving it: every folder on the way is opened by its own name from the one
//! above, and one that is a symbolic link is refused. What is made is whole or not there, by a rename.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use pvm_e2b_wire::workspace::UNFINISHED;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::accounts::Account;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that everything is made below, and whose it will be.
#[derive(Debug)]
pub(super) struct Root {
    folder: OwnedFd,
    account: Account,
}

/// A place for an entry: the folder it is in, and its name there.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    name: String,
    owner: (Uid, Gid),
}

/// A file that is being written beside its place.
#[derive(Debug)]
pub(super) struct Unfinished {
    place: Place,
    beside: String,
    pub(super) file: File,
}

fn text(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => "the VM's disk is full".to_owned(),
        Some(libc::EISDIR | libc::ENOTEMPTY | libc::EEXIST) => "there is a folder at this path".to_owned(),
        Some(libc::ENAMETOOLONG) => "a name in the path is too long for the VM's file system".to_owned(),
        _ => error.to_string(),
    }
}

pub(super) fn told(error: impl Into<io::Error>) -> String {
    text(error.into())
}

impl Root {
    /// Opens a folder.
    pub(super) fn open(path: &Path, account: Account) -> io::Result<Self> {
        let folder = rustix::fs::open(path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
        Ok(Self { folder, account })
    }

    /// The place of a relative path; folders that are missing on the way are made.
    pub(super) fn place(&self, path: &str) -> Result<Place, String> {
        self.find(path, true)?.ok_or_else(|| "a folder on the way was removed at the same moment".to_owned())
    }

    /// The place of a relative path, where its folder is there.
    pub(super) fn find(&self, path: &str, make: bool) -> Result<Option<Place>, String> {
        let mut names: Vec<&str> = path.split('/').collect();
        if names.iter().any(|name| name.is_empty() || *name == "." || *name == ".." || name.contains('\0')) {
            return Err("the path is not one below the workspace".to_owned());
        }
        let name = names.pop().unwrap_or_default().to_owned();
        let owner = (Uid::from_raw(self.account.uid), Gid::from_raw(self.account.gid));
        let mut folder = self.folder.try_clone().map_err(text)?;
        for (depth, step) in names.iter().enumerate() {
            let next = match rustix::fs::openat(&folder, *step, FOLDER, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&folder, *step, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {
                            let (uid, gid) = owner;
                            rustix::fs::chownat(
                                &folder,
                                *step,
                                Some(uid),
                                Some(gid),
                                AtFlags::SYMLINK_NOFOLLOW,
                            )
                            .map_err(told)?;
                        }
                        // Somebody else was faster.
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(told(error)),
                    }
                    rustix::fs::openat(&folder, *step, FOLDER, Mode::empty()).map_err(told)?
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let above = names[..=depth].join("/");
                    let link = rustix::fs::statat(&folder, *step, AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
                    return Err(if link {
                        format!("`{above}` is a symbolic link in the VM; nothing is written through it")
                    } else {
                        format!("`{above}` is a file in the VM, not a folder")
                    });
                }
                Err(error) => return Err(told(error)),
            };
            folder = next;
        }
        Ok(Some(Place { folder, name, owner }))
    }
}

impl Place {
    /// The entry that is there now, not followed.
    pub(super) fn kind(&self) -> io::Result<Option<FileType>> {
        match rustix::fs::statat(&self.folder, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the regular file that is there.
    pub(super) fn read(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.folder, self.name.as_str(), flags, Mode::empty())?))
    }

    /// Begins a file; what is there stays until it is finished.
    pub(super) fn begin(self) -> Result<Unfinished, String> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let beside = beside();
        let file = rustix::fs::openat(&self.folder, beside.as_str(), flags, Mode::from_raw_mode(0o600));
        Ok(Unfinished { file: File::from(file.map_err(told)?), beside, place: self })
    }

    /// Puts a symbolic link there.
    pub(super) fn link(&self, target: &str) -> Result<(), String> {
        let beside = beside();
        rustix::fs::symlinkat(target, &self.folder, beside.as_str()).map_err(told)?;
        let (uid, gid) = self.owner;
        let owned = rustix::fs::chownat(
            &self.folder,
            beside.as_str(),
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        self.take_place(&beside, owned.map_err(told))
    }

    /// Sets permission bits of the regular file that is there.
    pub(super) fn set_mode(&self, mode: u32) -> Result<(), String> {
        let file = self.read().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => "the file is not in the VM any more".to_owned(),
            _ => text(error),
        })?;
        if !file.metadata().is_ok_and(|facts| facts.is_file()) {
            return Err("there is something else than a file at this path".to_owned());
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777)).map_err(told)
    }

    fn take_place(&self, beside: &str, so_far: Result<(), String>) -> Result<(), String> {
        let done = so_far.and_then(|()| {
            rustix::fs::renameat(&self.folder, beside, &self.folder, self.name.as_str()).map_err(told)
        });
        if done.is_err() {
            // The error that is told is the first one.
            let _ = rustix::fs::unlinkat(&self.folder, beside, AtFlags::empty());
        }
        done
    }
}

impl Unfinished {
    /// Puts the file in its place with these permission bits, if it was written without an error.
    pub(super) fn finish(self, mode: u32, written: Result<(), String>) -> Result<(), String> {
        let (uid, gid) = self.place.owner;
        let ready = written.and_then(|()| {
            rustix::fs::fchown(&self.file, Some(uid), Some(gid)).map_err(told)?;
            rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode & 0o777)).map_err(told)
        });
        self.place.take_place(&self.beside, ready)
    }
}

/// A name that no scan reports and no two writers share.
fn beside() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{UNFINISHED}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether a name is that of a file that is being written.
pub(super) fn is_unfinished(name: &OsStr) -> bool {
    name.as_bytes().starts_with(UNFINISHED.as_bytes())
}
