//! The first keys of an embedded install, in files that only their owner can read.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rand::Rng;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new API key: `pvm_` and 43 characters of base 62 (256 bits).
pub fn api_key() -> String {
    let mut random = rand::rng();
    let body: String = (0..43).map(|_| char::from(BASE62[random.random_range(0..62)])).collect();
    format!("pvm_{body}")
}

/// A new key in the form that E2B's SDKs insist on: `e2b_` and 40 hex digits.
pub fn e2b_key() -> String {
    let bytes: [u8; 20] = rand::rng().random();
    format!("e2b_{}", hex::encode(bytes))
}

/// The secret in the file at `path`; made by `new` and stored with mode 0600 where there is none.
///
/// # Errors
/// The file cannot be read or written.
pub fn read_or_make(path: &Path, new: impl FnOnce() -> String) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let secret = new();
    // Written aside and renamed, so that a crash never leaves half a key.
    let aside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .with_context(|| format!("cannot write {}", aside.display()))?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let first = read_or_make(&path, api_key).unwrap();
        assert_eq!(read_or_make(&path, api_key).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.starts_with("pvm_") && first.len() == 47);
    }

    #[test]
    fn an_e2b_key_has_the_form_its_sdks_insist_on() {
        let key = e2b_key();
        assert_eq!(key.len(), 44);
        assert!(key.strip_prefix("e2b_").unwrap().bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
