//! One process at a time uses a state folder.

use std::fs::{DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

/// Messages, files and the key that signs tickets lie in the folder: they are nobody else's business.
const OWNER_ONLY: u32 = 0o700;

/// Held for as long as the process uses the folder; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    _lock: Flock<File>,
}

impl HomeLock {
    /// Makes the folder if it is missing, keeps other users of the machine out of it, and takes it.
    ///
    /// # Errors
    /// The folder cannot be used, or another process uses it.
    pub fn take(home: &Path) -> anyhow::Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(home);
        made.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                anyhow::anyhow!(
                    "{} cannot be made: permission denied; set PVM_HOME to a folder of yours",
                    home.display()
                )
            }
            ErrorKind::StorageFull => {
                anyhow::anyhow!("the disk of {} is full; free some space", home.display())
            }
            _ => anyhow::anyhow!("{} cannot be made: {error}", home.display()),
        })?;
        std::fs::set_permissions(home, Permissions::from_mode(OWNER_ONLY))
            .with_context(|| format!("{} is not yours; set PVM_HOME to a folder of yours", home.display()))?;
        let path = home.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "another pvm uses {}; stop it, or set PVM_HOME to another folder (and other ports)",
                home.display()
            ),
            Err((_, errno)) => bail!("cannot lock {}: {errno}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_by_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("state");
        let first = HomeLock::take(&home).unwrap();
        let second = HomeLock::take(&home).unwrap_err().to_string();
        assert!(second.contains("PVM_HOME"), "{second}");
        drop(first);
        assert!(HomeLock::take(&home).is_ok());
    }

    #[test]
    fn other_users_are_kept_out_of_new_and_of_older_folders() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let new = dir.path().join("new");
        drop(HomeLock::take(&new).unwrap());
        assert_eq!(mode(&new), OWNER_ONLY);
        let older = dir.path().join("older");
        std::fs::create_dir(&older).unwrap();
        std::fs::set_permissions(&older, Permissions::from_mode(0o755)).unwrap();
        drop(HomeLock::take(&older).unwrap());
        assert_eq!(mode(&older), OWNER_ONLY);
    }
}
