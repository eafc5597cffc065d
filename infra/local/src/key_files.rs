//! The first keys of an embedded install, in files that only their owner can read.

use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt as _};
use std::path::Path;

use anyhow::Context;

const OWNER_ONLY: u32 = 0o600;

/// The secret in the file at `path`, which others are kept from reading; made by `new` and stored with mode 0600 where there is none.
///
/// # Errors
/// The file cannot be read or written.
pub fn read_or_make<E>(path: &Path, new: impl FnOnce() -> Result<String, E>) -> anyhow::Result<String>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => {
            std::fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY))
                .with_context(|| format!("{} cannot be kept from other users", path.display()))?;
            return Ok(text.trim().to_owned());
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let secret = new()?;
    // Written aside and renamed, so that a crash never leaves half a key.
    let aside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(OWNER_ONLY)
        .open(&aside)
        .with_context(|| format!("cannot write {}", aside.display()))?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let first = read_or_make(&path, pvm_application::keys_admin::new_secret).unwrap();
        assert_eq!(read_or_make(&path, pvm_application::keys_admin::new_secret).unwrap(), first);
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), OWNER_ONLY);
        // Copied from elsewhere, or restored from a backup.
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        read_or_make(&path, pvm_application::keys_admin::new_secret).unwrap();
        assert_eq!(mode(), OWNER_ONLY);
    }
}
