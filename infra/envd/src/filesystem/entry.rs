//! What is told about a file, directory or link.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use jiff::Timestamp;
use pvm_e2b_wire::filesystem::{EntryInfo, FileType};

use crate::accounts::Names;
use crate::{files, paths};

/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o777;

/// Describes what is at a path, without following it when it is a link.
///
/// # Errors
/// The system's.
pub fn describe(path: &Path, names: &Names) -> io::Result<EntryInfo> {
    Ok(from_metadata(path, &path.symlink_metadata()?, names))
}

/// The same with the (link's own) metadata at hand. Of a link, kind and mode are those of what it points to.
pub fn from_metadata(path: &Path, metadata: &Metadata, names: &Names) -> EntryInfo {
    let mut entry = EntryInfo {
        name: paths::name_of(path),
        file_type: kind(metadata),
        path: path.to_string_lossy().into_owned(),
        size: metadata.len().cast_signed(),
        mode: metadata.mode() & PERMISSIONS,
        permissions: permissions(metadata),
        owner: names.user(metadata.uid()),
        group: names.group(metadata.gid()),
        modified_time: modified(metadata),
        symlink_target: None,
        metadata: files::metadata::of_path(path),
    };
    if metadata.is_symlink() {
        // A link that leads nowhere is told as leading to itself, as clients know it.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let behind = path.metadata();
        entry.file_type = behind.as_ref().map_or(FileType::Unspecified, kind);
        entry.mode = behind.map_or(0, |metadata| metadata.mode() & PERMISSIONS);
        entry.symlink_target = Some(target.to_string_lossy().into_owned());
    }
    entry
}

fn kind(metadata: &Metadata) -> FileType {
    if metadata.is_file() {
        FileType::File
    } else if metadata.is_dir() {
        FileType::Directory
    } else if metadata.is_symlink() {
        FileType::Symlink
    } else {
        FileType::Unspecified
    }
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    let nanoseconds = i32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Timestamp::new(metadata.mtime(), nanoseconds).ok()
}

/// Mode as text, as the official daemon's language writes it: letters for what it is, then the permissions.
fn permissions(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let mode = metadata.mode();
    let mut text = String::with_capacity(10);
    for (letters, applies) in [
        ("d", kind.is_dir()),
        ("L", kind.is_symlink()),
        ("D", kind.is_block_device() || kind.is_char_device()),
        ("p", kind.is_fifo()),
        ("S", kind.is_socket()),
        ("u", mode & libc::S_ISUID != 0),
        ("g", mode & libc::S_ISGID != 0),
        ("c", kind.is_char_device()),
        ("t", mode & libc::S_ISVTX != 0),
    ] {
        if applies {
            text.push_str(letters);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (index, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> index) == 0 { '-' } else { letter });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn files_directories_and_links_are_described() {
        let root = tempfile::tempdir().unwrap();
        let names = Names::load();
        let file = root.path().join("f");
        std::fs::write(&file, "hello").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let entry = describe(&file, &names).unwrap();
        assert_eq!((entry.file_type, entry.size, entry.mode), (FileType::File, 5, 0o640));
        assert_eq!((entry.permissions.as_str(), entry.name.as_str()), ("-rw-r-----", "f"));

        std::fs::set_permissions(root.path(), Permissions::from_mode(0o1777)).unwrap();
        let entry = describe(root.path(), &names).unwrap();
        assert_eq!((entry.file_type, entry.permissions.as_str()), (FileType::Directory, "dtrwxrwxrwx"));
        assert_eq!(entry.mode, 0o777);

        let link = root.path().join("l");
        symlink(&file, &link).unwrap();
        let entry = describe(&link, &names).unwrap();
        assert_eq!((entry.file_type, entry.mode), (FileType::File, 0o640));
        assert_eq!(entry.symlink_target.as_deref(), file.canonicalize().unwrap().to_str());
        assert!(entry.permissions.starts_with('L'));

        let broken = root.path().join("b");
        symlink("/nowhere/at/all", &broken).unwrap();
        let entry = describe(&broken, &names).unwrap();
        assert_eq!(entry.file_type, FileType::Unspecified);
        assert_eq!(entry.symlink_target.as_deref(), broken.to_str());
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let error = describe(Path::new("/no/such/thing"), &Names::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
