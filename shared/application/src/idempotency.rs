//! `Idempotency-Key`: remembers which resource a request made, in the transaction that makes it, so that the same
//! request again finds that resource instead of making a second one.

use jiff::SignedDuration;
use pvm_domain::ids::OwnerId;
use pvm_domain::{Timestamp, limits};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::records::record;
use crate::store::{Key, ReadStore};

/// A request's `Idempotency-Key` with what identifies the request.
#[derive(Debug, Clone)]
pub struct Claim {
    owner: OwnerId,
    key_hash: String,
    request_hash: String,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// Whose key.
    pub owner: OwnerId,
    /// SHA-256 of the client's key.
    pub key_hash: String,
    /// SHA-256 of route and body.
    pub request_hash: String,
    /// The id of what was made.
    pub resource: String,
    /// When it is forgotten.
    pub until: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

record!(IdempotencyRecord, "idempotency", |r| keys::idempotency(&r.owner, &r.key_hash), expires: Some(r.until));

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

impl Claim {
    /// A claim of `key` (1 to 255 printable ASCII characters) for this route and body.
    ///
    /// # Errors
    /// The key's form.
    pub fn new(owner: &OwnerId, key: &str, route: &str, body: &[u8]) -> AppResult<Self> {
        if key.is_empty() || key.len() > 255 || !key.bytes().all(|b| (0x21..0x7f).contains(&b)) {
            let detail = "`Idempotency-Key` must be 1 to 255 printable ASCII characters without spaces.";
            return Err(AppError::new(ErrorCode::BadRequest, detail));
        }
        Ok(Self {
            owner: owner.clone(),
            key_hash: hash(&[key.as_bytes()]),
            request_hash: hash(&[route.as_bytes(), body]),
        })
    }

    /// The record to store with the new resource.
    pub fn record(&self, resource: impl ToString, now: Timestamp) -> IdempotencyRecord {
        let keep = SignedDuration::from_secs(limits::IDEMPOTENCY_SECS.cast_signed());
        IdempotencyRecord {
            owner: self.owner.clone(),
            key_hash: self.key_hash.clone(),
            request_hash: self.request_hash.clone(),
            resource: resource.to_string(),
            until: now.saturating_add(keep).unwrap_or(now),
            version: 0,
        }
    }

    /// Where the record is: a conflict there means that the same request came twice at once.
    pub fn key(&self) -> Key {
        keys::idempotency(&self.owner, &self.key_hash)
    }
}

/// The id of what this request made before, if it did.
///
/// # Errors
/// `idempotency_mismatch` where the key was used for another request.
pub async fn replayed(
    store: &impl ReadStore,
    claim: Option<&Claim>,
    now: Timestamp,
) -> AppResult<Option<String>> {
    let Some(claim) = claim else { return Ok(None) };
    let Some(found) = store.get::<IdempotencyRecord>(&claim.key()).await? else { return Ok(None) };
    if found.until <= now {
        return Ok(None);
    }
    if found.request_hash != claim.request_hash {
        let detail = "This Idempotency-Key was used for another request; use a new key for a new request.";
        return Err(AppError::new(ErrorCode::IdempotencyMismatch, detail));
    }
    Ok(Some(found.resource))
}

/// The id of what was made with `key`, whatever the request was.
///
/// # Errors
/// Of the store.
pub async fn made_with(
    store: &impl ReadStore,
    owner: &OwnerId,
    key: &str,
    now: Timestamp,
) -> AppResult<Option<String>> {
    let known = store.get::<IdempotencyRecord>(&keys::idempotency(owner, &hash(&[key.as_bytes()]))).await?;
    Ok(known.filter(|found| now < found.until).map(|found| found.resource))
}
