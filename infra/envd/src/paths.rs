//! How a path in a request becomes an absolute one.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Component, Path, PathBuf};

use crate::accounts::Account;

/// A path that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `~name` was given.
    #[error("cannot expand the home directory of another user in '{0}'; use an absolute path")]
    OtherHome(String),
    /// A NUL byte is in it.
    #[error("paths cannot contain NUL bytes")]
    Nul,
}

/// Resolves a path: empty means `workdir` (or the home when there is none), `~` the home, and anything relative
/// counts from the home. Relative paths lose `.` and `..`; absolute ones keep `..`, since what it means depends
/// on symbolic links.
pub fn resolve(path: &str, account: &Account, workdir: Option<&str>) -> Result<PathBuf, PathError> {
    let path = if path.is_empty() { workdir.unwrap_or_default() } else { path };
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if let Some(rest) = path.strip_prefix('~') {
        return match rest.strip_prefix('/') {
            Some(below) => Ok(clean(&account.home.join(below.trim_start_matches('/')))),
            None if rest.is_empty() => Ok(clean(&account.home)),
            None => Err(PathError::OtherHome(path.to_owned())),
        };
    }
    if path.starts_with('/') {
        // Only doubled and trailing slashes go.
        return Ok(Path::new(path).components().collect());
    }
    Ok(clean(&account.home.join(path)))
}

/// Removes `.`, and `..` with what stands before it, without looking at the file system.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// Last component of a path as text; `/` of the root.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(OsStr::from_bytes(b"/")).to_string_lossy().into_owned()
}

/// Makes a directory and its missing parents, each given to the user, mode 0755 less the umask.
///
/// # Errors
/// The system's, or `NotADirectory` when a file is in the way.
pub fn ensure_directories(path: &Path, account: &Account) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        match ancestor.metadata() {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => {
                let text = format!("path is a file: {}", ancestor.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(error),
        }
    }
    for directory in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => chown(directory, Some(account.uid), Some(account.gid))?,
            // Somebody else was faster; then it is theirs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { name: "user".into(), uid: 1, gid: 1, groups: vec![1], home: "/home/user".into() }
    }

    #[test]
    fn paths_resolve_as_in_a_login_shell() {
        for (path, workdir, expected) in [
            ("", None, "/home/user"),
            ("", Some("/workspace"), "/workspace"),
            ("~", None, "/home/user"),
            ("~/a", None, "/home/user/a"),
            ("a/b/../c/", None, "/home/user/a/c"),
            ("../../../etc", None, "/etc"),
            ("a", Some("/workspace"), "/home/user/a"),
            ("/a//b/", None, "/a/b"),
            ("/a/../b", None, "/a/../b"),
            ("/", None, "/"),
        ] {
            assert_eq!(resolve(path, &account(), workdir), Ok(PathBuf::from(expected)), "{path:?}");
        }
    }

    #[test]
    fn homes_of_others_and_nul_bytes_are_refused() {
        assert!(matches!(resolve("~root/x", &account(), None), Err(PathError::OtherHome(_))));
        assert_eq!(resolve("a\0b", &account(), None), Err(PathError::Nul));
    }

    #[test]
    fn missing_parents_are_made_and_files_in_the_way_told() {
        let root = tempfile::tempdir().unwrap();
        let me = Account {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            ..account()
        };
        ensure_directories(&root.path().join("a/b/c"), &me).unwrap();
        assert!(root.path().join("a/b/c").is_dir());
        std::fs::write(root.path().join("f"), "").unwrap();
        let error = ensure_directories(&root.path().join("f/x"), &me).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }
}
