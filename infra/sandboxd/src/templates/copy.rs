//! Copies of trees that keep everything an overlay layer consists of: owners (shifted), modes, times, links,
//! device nodes (the overlay's whiteouts) and extended attributes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, chownat, mknodat, utimensat};
use walkdir::WalkDir;

use crate::isolation::ids::RANGE_LEN;
use crate::isolation::mode::{Isolation, run_mapped};

/// How owners change on the way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owners {
    /// They stay.
    Kept,
    /// Owners inside the sandbox range that starts here become ids from 0 on: the form of a read-only layer.
    FromRange(u32),
}

impl Owners {
    fn apply(self, id: u32) -> u32 {
        match self {
            Self::Kept => id,
            // What does not belong to the range cannot come from inside; it becomes root's.
            Self::FromRange(base) => id.checked_sub(base).filter(|id| *id < RANGE_LEN).unwrap_or(0),
        }
    }
}

/// Set by the kernel when a program is given capabilities; holds the id of the owning namespace's root.
const CAPABILITY: &str = "security.capability";

/// Copies `source`'s contents into `target`, which is made. `leave_out` is asked for every path relative to
/// `source`.
pub(crate) fn copy_tree(
    source: &Path,
    target: &Path,
    owners: Owners,
    leave_out: &dyn Fn(&Path) -> bool,
) -> io::Result<()> {
    if Isolation::current() == Isolation::Subordinate && matches!(owners, Owners::FromRange(_)) {
        return copy_mapped(source, target, leave_out);
    }
    let mut first_names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    // Times of folders are set last: filling them changes them.
    let mut folders = Vec::new();
    let walk = WalkDir::new(source).follow_links(false).sort_by_file_name().into_iter();
    let walk = walk.filter_entry(|entry| {
        let relative = entry.path().strip_prefix(source).unwrap_or(Path::new(""));
        relative.as_os_str().is_empty() || !leave_out(relative)
    });
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            // What a plain user may not read of the host's is no part of what he can show.
            Err(error) if matches!(owners, Owners::Kept) && is_denied(error.io_error()) => continue,
            Err(error) => return Err(error.into()),
        };
        let from = entry.path();
        let to = match from.strip_prefix(source) {
            Ok(relative) if !relative.as_os_str().is_empty() => target.join(relative),
            _ => target.to_owned(),
        };
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        if !kind.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = first_names.get(&(metadata.dev(), metadata.ino())) {
                fs::hard_link(first, &to)?;
                continue;
            }
            first_names.insert((metadata.dev(), metadata.ino()), to.clone());
        }
        if kind.is_dir() {
            fs::create_dir(&to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(from)?, &to)?;
        } else if kind.is_file() {
            match fs::copy(from, &to) {
                Err(error) if matches!(owners, Owners::Kept) && is_denied(Some(&error)) => {
                    fs::remove_file(&to).ok();
                    continue;
                }
                other => other.map(|_| ())?,
            }
        } else {
            let kind = if kind.is_char_device() {
                FileType::CharacterDevice
            } else if kind.is_block_device() {
                FileType::BlockDevice
            } else if kind.is_fifo() {
                FileType::Fifo
            } else {
                FileType::Socket
            };
            mknodat(CWD, &to, kind, Mode::empty(), metadata.rdev())?;
        }
        keep_attributes(from, &to, &metadata, owners)?;
        if kind.is_dir() {
            folders.push((to, times(&metadata)));
        } else {
            utimensat(CWD, &to, &times(&metadata), AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    for (folder, times) in folders.iter().rev() {
        utimensat(CWD, folder, times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn is_denied(error: Option<&io::Error>) -> bool {
    !Isolation::current().is_root()
        && error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The copy of a layer whose owners are a plain user's subordinate ids: they stay, and only a process with these ids
/// can make it.
fn copy_mapped(source: &Path, target: &Path, leave_out: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    fs::create_dir(target)?;
    let contents = source.join(".");
    run_mapped("cp", &["-a".as_ref(), "--".as_ref(), contents.as_os_str(), target.as_os_str()])?;
    let walk = WalkDir::new(target).follow_links(false).into_iter().filter_map(Result::ok);
    let left_out: Vec<PathBuf> = walk
        .filter(|entry| entry.path().strip_prefix(target).is_ok_and(leave_out))
        .map(walkdir::DirEntry::into_path)
        .collect();
    left_out.iter().try_for_each(|path| run_mapped("rm", &["-rf".as_ref(), "--".as_ref(), path.as_os_str()]))
}

/// Owner first: changing it clears set-uid bits and capabilities, which are restored after it.
fn keep_attributes(from: &Path, to: &Path, metadata: &fs::Metadata, owners: Owners) -> io::Result<()> {
    if Isolation::current().is_root() {
        chownat(
            CWD,
            to,
            Some(rustix::process::Uid::from_raw(owners.apply(metadata.uid()))),
            Some(rustix::process::Gid::from_raw(owners.apply(metadata.gid()))),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    if !metadata.file_type().is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    let names: Vec<_> = match xattr::list(from) {
        Ok(names) => names.collect(),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Vec::new(),
        Err(error) => return Err(error),
    };
    for name in names {
        let Some(value) = xattr::get(from, &name)? else { continue };
        if is_kept(&name) {
            let value = if name == CAPABILITY { for_any_root(value, owners) } else { value };
            match xattr::set(to, &name, &value) {
                // Capabilities of files are root's to give.
                Err(error) if is_denied(Some(&error)) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Labels of security modules and lists of access rights name the source's policy and ids; the overlay's own notes
/// about origins name files that the copy has not.
fn is_kept(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == CAPABILITY.as_bytes()
        || name.starts_with(b"user.")
        || matches!(name, b"trusted.overlay.opaque" | b"trusted.overlay.redirect")
}

/// Version 3 of the attribute belongs to one namespace's root; version 2, the same without that id, to the root of
/// whoever mounts the layer.
fn for_any_root(value: Vec<u8>, owners: Owners) -> Vec<u8> {
    const VERSION_2: u32 = 0x0200_0000;
    const VERSION_3: u32 = 0x0300_0000;
    const VERSION_MASK: u32 = 0xff00_0000;
    const LENGTH_2: usize = 20;
    let Some(head) = value.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) else { return value };
    if head & VERSION_MASK != VERSION_3 || matches!(owners, Owners::Kept) || value.len() < LENGTH_2 {
        return value;
    }
    let mut changed = ((head & !VERSION_MASK) | VERSION_2).to_le_bytes().to_vec();
    changed.extend_from_slice(&value[4..LENGTH_2]);
    changed
}

fn times(metadata: &fs::Metadata) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: metadata.atime(), tv_nsec: metadata.atime_nsec() },
        last_modification: Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_outside_the_range_become_root() {
        let owners = Owners::FromRange(1000);
        assert_eq!(owners.apply(1000), 0);
        assert_eq!(owners.apply(2000), 1000);
        assert_eq!(owners.apply(999), 0);
        assert_eq!(owners.apply(1000 + RANGE_LEN), 0);
    }

    #[test]
    fn links_modes_and_times_survive_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a");
        fs::create_dir_all(source.join("d")).unwrap();
        fs::write(source.join("d/f"), "text").unwrap();
        fs::set_permissions(source.join("d/f"), fs::Permissions::from_mode(0o751)).unwrap();
        fs::hard_link(source.join("d/f"), source.join("g")).unwrap();
        symlink("nowhere", source.join("l")).unwrap();
        fs::write(source.join("skipped"), "").unwrap();
        let target = folder.path().join("b");
        copy_tree(&source, &target, Owners::Kept, &|path| path == Path::new("skipped")).unwrap();
        let file = fs::metadata(target.join("d/f")).unwrap();
        assert_eq!(file.mode() & 0o7777, 0o751);
        assert_eq!(file.ino(), fs::metadata(target.join("g")).unwrap().ino());
        assert_eq!(file.mtime_nsec(), fs::metadata(source.join("d/f")).unwrap().mtime_nsec());
        assert_eq!(fs::read_link(target.join("l")).unwrap(), Path::new("nowhere"));
        assert!(!target.join("skipped").exists());
    }

    #[test]
    fn capabilities_of_a_namespace_become_anybodys() {
        let mut value = 0x0300_0001_u32.to_le_bytes().to_vec();
        value.extend_from_slice(&[7; 16]);
        value.extend_from_slice(&0x1000_0000_u32.to_le_bytes());
        let changed = for_any_root(value.clone(), Owners::FromRange(0x1000_0000));
        assert_eq!(changed.len(), 20);
        assert_eq!(changed[..4], 0x0200_0001_u32.to_le_bytes());
        assert_eq!(for_any_root(value.clone(), Owners::Kept), value);
    }
}
