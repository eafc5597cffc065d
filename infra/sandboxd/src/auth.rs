//! Who may call the control plane.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use sha2::{Digest as _, Sha256};

/// Who owns a sandbox: an opaque name that the authenticator chooses. Callers see only what is their owner's.
pub type Owner = String;

/// The answer of [`Authenticate::authenticate`], boxed so that authenticators can be chosen at run time.
pub type AuthenticateFuture<'a> = Pin<Box<dyn Future<Output = Option<Owner>> + Send + 'a>>;

/// Checks API keys.
pub trait Authenticate: Send + Sync + fmt::Debug {
    /// The owner that `key` belongs to, or nothing when it is not valid.
    fn authenticate<'a>(&'a self, key: &'a str) -> AuthenticateFuture<'a>;
}

/// A fixed set of keys, each with its owner.
///
/// Keys are kept as hashes: a lookup then takes no time that depends on how much of a guess is right, and no key
/// shows in a memory dump or `Debug` output.
#[derive(Clone, Default)]
pub struct StaticKeys(HashMap<[u8; 32], Owner>);

impl StaticKeys {
    /// Keys with their owners.
    pub fn new<K: AsRef<str>, O: Into<Owner>>(keys: impl IntoIterator<Item = (K, O)>) -> Self {
        Self(keys.into_iter().map(|(key, owner)| (hash(key.as_ref()), owner.into())).collect())
    }
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StaticKeys({} keys)", self.0.len())
    }
}

impl Authenticate for StaticKeys {
    fn authenticate<'a>(&'a self, key: &'a str) -> AuthenticateFuture<'a> {
        Box::pin(async move { self.0.get(&hash(key)).cloned() })
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_known_key_has_an_owner() {
        let keys = StaticKeys::new([("e2b_1", "ann")]);
        assert_eq!(keys.authenticate("e2b_1").await.as_deref(), Some("ann"));
        assert_eq!(keys.authenticate("e2b_2").await, None);
        assert!(!format!("{keys:?}").contains("e2b_1"));
    }
}
