//! Short texts that clients carry for us and must not be able to forge: cursors and stream tickets.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use pvm_application::error::{AppError, AppResult};
use pvm_application::store::Position;
use pvm_domain::key::Principal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use crate::settings::{BadSettings, Secret};

/// The shortest key, in bytes: that of the hash.
const KEY_BYTES: usize = 32;

/// Signs and checks with HMAC-SHA-256.
#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// A signer with this key.
    ///
    /// # Errors
    /// The key has fewer than 32 characters.
    pub fn new(key: &Secret) -> Result<Self, BadSettings> {
        let bytes = key.reveal().as_bytes();
        match Hmac::new_from_slice(bytes) {
            Ok(mac) if bytes.len() >= KEY_BYTES => Ok(Self { mac }),
            _ => Err(BadSettings(vec!["PVM_SIGNING_KEY must have at least 32 characters".to_owned()])),
        }
    }

    fn tag(&self, purpose: &str, bound_to: &str, payload: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in [purpose, bound_to, payload] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }

    /// `value` as a text that [`Signer::open`] reads back for the same purpose and binding only. It is signed, not
    /// hidden.
    pub fn seal(&self, purpose: &str, bound_to: &str, value: &impl Serialize) -> String {
        // Plain structs of ours always have a JSON form; an empty payload would fail to open.
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap_or_default());
        let tag = URL_SAFE_NO_PAD.encode(self.tag(purpose, bound_to, &payload).finalize().into_bytes());
        format!("{payload}.{tag}")
    }

    /// Reads a sealed text back; `None` where it was not made here, for this purpose and binding.
    pub fn open<T: DeserializeOwned>(&self, purpose: &str, bound_to: &str, sealed: &str) -> Option<T> {
        let (payload, tag) = sealed.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        self.tag(purpose, bound_to, payload).verify_slice(&tag).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// A cursor for the next page of `listing`, good for its caller only.
    pub fn cursor(&self, principal: &Principal, listing: &str, next: Option<&Position>) -> Option<String> {
        next.map(|position| self.seal("cursor", &format!("{}\n{listing}", principal.owner), position))
    }

    /// Where the page before ended.
    ///
    /// # Errors
    /// The cursor is not one of this caller and listing.
    pub fn position(&self, principal: &Principal, listing: &str, cursor: &str) -> AppResult<Position> {
        self.open("cursor", &format!("{}\n{listing}", principal.owner), cursor).ok_or_else(|| {
            AppError::invalid("cursor", "is not one that this list gave you; start again without it")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pvm_domain::ids::OwnerId;
    use pvm_domain::project::Scope;

    use super::*;

    fn signer() -> Signer {
        Signer::new(&Secret::new("0123456789abcdef0123456789abcdef")).unwrap()
    }

    fn principal(owner: &str) -> Principal {
        Principal { owner: OwnerId::parse(owner).unwrap(), scope: Scope::Read, projects: None }
    }

    #[test]
    fn a_cursor_is_good_for_its_caller_and_list_only() {
        let position = Position(BTreeMap::from([("PK".to_owned(), "U#a".to_owned())]));
        let cursor = signer().cursor(&principal("a"), "projects", Some(&position)).unwrap();
        assert_eq!(signer().position(&principal("a"), "projects", &cursor).unwrap(), position);
        assert!(signer().position(&principal("b"), "projects", &cursor).is_err());
        assert!(signer().position(&principal("a"), "keys", &cursor).is_err());
        for bad in ["", ".", "x.y", &cursor[1..], &format!("{cursor}A")] {
            let error = signer().position(&principal("a"), "projects", bad).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("cursor"));
        }
    }

    #[test]
    fn parts_cannot_be_shifted_between_purpose_and_binding() {
        let sealed = signer().seal("ab", "c", &1);
        assert_eq!(signer().open::<u32>("a", "bc", &sealed), None);
        assert_eq!(signer().open::<u32>("ab", "c", &sealed), Some(1));
    }

    #[test]
    fn a_short_key_is_refused() {
        assert!(Signer::new(&Secret::new("short")).is_err());
    }
}
