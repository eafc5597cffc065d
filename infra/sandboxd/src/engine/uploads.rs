//! Permissions to send one file each, as part of a URL.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::create::new_token;

/// Permissions that are open at a time; giving out more takes back all older ones.
const MAX_OPEN: usize = 4096;

/// Open permissions, by token.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, PathBuf>>);

impl Uploads {
    /// A token that allows to send the file at `path`.
    pub(crate) fn issue(&self, path: PathBuf) -> String {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        let token = new_token().expose().to_owned();
        open.insert(token.clone(), path);
        token
    }

    /// What a token allows; it can be used again until the file is there, so that a client may retry.
    pub(crate) fn redeem(&self, token: &str) -> Option<PathBuf> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = open.get(token).cloned()?;
        if path.is_file() {
            open.remove(token);
        }
        Some(path)
    }
}
