//! Moving across file systems, and directories that an overlay cannot rename: by copying, as `mv` does.

use std::fs::{self, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use crate::files;

/// Renames, or copies and removes where renaming is not possible.
///
/// # Errors
/// The system's. A copy that failed half-way is removed again; the source stays until the copy is whole.
pub fn relocate(source: &Path, destination: &Path) -> io::Result<()> {
    match fs::rename(source, destination) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        other => return other,
    }
    // What renaming would have replaced.
    match destination.symlink_metadata() {
        Ok(there) if there.is_dir() => fs::remove_dir(destination)?,
        Ok(_) if source.symlink_metadata()?.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => fs::remove_file(destination)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Err(error) = copy(source, destination) {
        remove(destination).ok();
        return Err(error);
    }
    remove(source)
}

/// Removes a file, a link, or a directory with all that is in it. What is not there is no error.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn copy(source: &Path, destination: &Path) -> io::Result<()> {
    let metadata = source.symlink_metadata()?;
    if metadata.is_symlink() {
        symlink(fs::read_link(source)?, destination)?;
        return lchown(destination, Some(metadata.uid()), Some(metadata.gid()));
    }
    if metadata.is_dir() {
        fs::create_dir(destination)?;
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            copy(&entry.path(), &destination.join(entry.file_name()))?;
        }
        return keep_attributes(&metadata, destination);
    }
    if !metadata.is_file() {
        let text = format!("'{}' is neither a file, a directory nor a link", source.display());
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    fs::copy(source, destination)?;
    files::metadata::replace(fs::File::open(destination)?, &files::metadata::of_path(source))?;
    keep_attributes(&metadata, destination)
}

/// Owner first: changing it takes set-user-id bits away, which the mode then gives back.
fn keep_attributes(metadata: &Metadata, destination: &Path) -> io::Result<()> {
    lchown(destination, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(destination, Permissions::from_mode(metadata.mode() & 0o7777))?;
    let times = FileTimes::new().set_modified(metadata.modified()?).set_accessed(metadata.accessed()?);
    fs::File::open(destination)?.set_times(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_tree_is_the_same_tree() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("s");
        fs::create_dir_all(source.join("d")).unwrap();
        fs::write(source.join("d/f"), "data").unwrap();
        fs::set_permissions(source.join("d/f"), Permissions::from_mode(0o4711)).unwrap();
        symlink("d/f", source.join("l")).unwrap();
        let copied = root.path().join("c");
        copy(&source, &copied).unwrap();
        assert_eq!(fs::read(copied.join("l")).unwrap(), b"data");
        assert_eq!(fs::read_link(copied.join("l")).unwrap(), Path::new("d/f"));
        let (before, after) =
            (fs::metadata(source.join("d/f")).unwrap(), fs::metadata(copied.join("d/f")).unwrap());
        assert_eq!(before.mode(), after.mode());
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    }

    #[test]
    fn removing_does_not_follow_links_and_takes_absence() {
        let root = tempfile::tempdir().unwrap();
        let kept = root.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let link = root.path().join("link");
        symlink(&kept, &link).unwrap();
        remove(&link).unwrap();
        assert!(kept.is_dir() && !link.exists());
        remove(&root.path().join("absent")).unwrap();
    }
}
