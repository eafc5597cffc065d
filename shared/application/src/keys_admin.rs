//! API keys: making, listing and revoking them, and the first one of an install. A key is shown once; its SHA-256 is
//! what is stored and looked up.

use jiff::SignedDuration;
use pvm_domain::ids::{KeyId, OwnerId, ProjectId};
use pvm_domain::key::{ApiKey, Principal};
use pvm_domain::project::Scope;
use pvm_domain::text;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

use crate::authorize::{authorize, require};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, Clock};
use crate::store::{Index, Listing, Page, Position, ReadStore, StoreError, Tx, WriteStore};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of base 62 that hold 256 bits.
const SECRET_CHARS: usize = 43;
/// The longest life of a key that has an end: ten years.
const EXPIRES_MAX_SECS: u64 = 315_360_000;
/// The most projects that one key names: they travel in the authorizer's context.
const PROJECTS_MAX: usize = 100;

/// A key as asked for.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// What its owner calls it.
    pub name: String,
    /// The widest scope.
    pub scope: Scope,
    /// The projects it is good for; `None` means all.
    pub projects: Option<Vec<ProjectId>>,
    /// Seconds until it stops working.
    pub expires_in_secs: Option<u64>,
}

/// A new key: `pvm_` and 256 random bits in base 62.
///
/// # Errors
/// The system has no randomness.
pub fn new_secret() -> AppResult<String> {
    let mut secret = String::from("pvm_");
    while secret.len() < "pvm_".len() + SECRET_CHARS {
        // 248 is the highest multiple of 62 in a byte: what lies above would make some characters likelier.
        let fits =
            random::<64>()?.into_iter().filter(|byte| *byte < 248).map(|byte| BASE62[usize::from(byte % 62)]);
        secret.extend(fits.map(char::from).take("pvm_".len() + SECRET_CHARS - secret.len()));
    }
    Ok(secret)
}

/// A new key in the form that E2B's SDKs insist on: `e2b_` and 40 hex digits.
///
/// # Errors
/// The system has no randomness.
pub fn new_e2b_secret() -> AppResult<String> {
    Ok(format!("e2b_{}", hex::encode(random::<20>()?)))
}

fn random<const N: usize>() -> AppResult<[u8; N]> {
    let mut bytes = [0; N];
    match OsRng.try_fill_bytes(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(AppError::new(ErrorCode::Internal, "The system has no randomness.").because(error)),
    }
}

/// Under what a key is stored.
pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// Makes a key, and answers it with its secret. It never reaches farther than the one who makes it.
///
/// # Errors
/// `forbidden`, `invalid`; a replay is `idempotency_no_replay`, because the key cannot be shown again.
pub async fn create<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    principal: &Principal,
    claim: Option<&Claim>,
    input: NewApiKey,
) -> AppResult<(ApiKey, String)> {
    require(principal, Scope::Admin)?;
    let name = text::name("name", &input.name)?;
    let projects = reach(store, principal, input.projects).await?;
    let expires_at = match input.expires_in_secs {
        None => None,
        Some(secs) if (1..=EXPIRES_MAX_SECS).contains(&secs) => {
            ambient.now().saturating_add(SignedDuration::from_secs(secs.cast_signed())).ok()
        }
        Some(_) => return Err(AppError::invalid("expires_in_secs", "must be 1 to 315360000")),
    };
    if replayed(store, claim, ambient.now()).await?.is_some() {
        return Err(no_replay());
    }
    let secret = new_secret()?;
    let mut key = ApiKey {
        key_id: ambient.new_id(),
        hash: hash(&secret),
        owner: principal.owner.clone(),
        name,
        scope: input.scope,
        projects,
        created_at: ambient.now(),
        expires_at,
        revoked_at: None,
        version: 0,
    };
    let mut tx = Tx::new().create(&mut key);
    if let Some(claim) = claim {
        tx = tx.create(&mut claim.record(&key.key_id, ambient.now()));
    }
    match store.commit(tx).await {
        Ok(_) => Ok((key, secret)),
        Err(StoreError::Conflict { key }) if claim.is_some_and(|claim| claim.key() == key) => {
            replayed(store, claim, ambient.now()).await?;
            Err(no_replay())
        }
        Err(other) => Err(other.into()),
    }
}

fn no_replay() -> AppError {
    let detail = "This key was made before and is shown once. Revoke it and make a new one with a new Idempotency-Key.";
    AppError::new(ErrorCode::IdempotencyNoReplay, detail)
}

/// The projects of a new key: all that it names must be the caller's, and a confined caller makes confined keys.
async fn reach(
    store: &impl ReadStore,
    principal: &Principal,
    wanted: Option<Vec<ProjectId>>,
) -> AppResult<Option<Vec<ProjectId>>> {
    let Some(wanted) = wanted else { return Ok(principal.projects.clone()) };
    if !(1..=PROJECTS_MAX).contains(&wanted.len()) {
        return Err(AppError::invalid("project_ids", "must name 1 to 100 projects, or be absent for all"));
    }
    for project_id in &wanted {
        match authorize(store, principal, project_id, Scope::Admin).await {
            Ok(_) => {}
            Err(error) if error.code == ErrorCode::NotFound => {
                return Err(AppError::invalid(
                    "project_ids",
                    format!("names {project_id}, which is not yours"),
                ));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(Some(wanted))
}

/// One page of the caller's keys that are not revoked, in the order they were made.
///
/// # Errors
/// `forbidden`; of the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    limit: u32,
    after: Option<Position>,
) -> AppResult<Page<ApiKey>> {
    require(principal, Scope::Admin)?;
    let listing = Listing::of(keys::owner_partition(&principal.owner), "K#").from_index(Index::Owner);
    let mut page = store.list::<ApiKey>(listing.page(limit, after)).await?;
    page.items.retain(|key| key.revoked_at.is_none() && within(principal, key));
    Ok(page)
}

/// Whether the key reaches no farther than the caller, who could else look or act beyond its own confines.
fn within(principal: &Principal, key: &ApiKey) -> bool {
    match (&principal.projects, &key.projects) {
        (None, _) => true,
        (Some(own), Some(its)) => its.iter().all(|project| own.contains(project)),
        (Some(_), None) => false,
    }
}

/// Revokes a key: from now on it opens nothing.
///
/// # Errors
/// `not_found`, `forbidden`; of the store.
pub async fn revoke(
    store: &impl WriteStore,
    clock: &impl Clock,
    principal: &Principal,
    key_id: &KeyId,
) -> AppResult<()> {
    require(principal, Scope::Admin)?;
    let place = keys::api_key_listing(&principal.owner, key_id.as_str());
    let listing = Listing::of(place.pk, place.sk).from_index(Index::Owner).page(1, None);
    let found = store.list::<ApiKey>(listing).await?.items.pop();
    let found = found.filter(|key| key.key_id == *key_id && within(principal, key));
    let hash = found.ok_or_else(|| AppError::not_found("key"))?.hash;
    for _ in 0..8 {
        // The index may lag behind; the record decides.
        let key: Option<ApiKey> = store.get(&keys::api_key(&hash)).await?;
        let Some(mut key) = key.filter(|key| key.revoked_at.is_none()) else {
            return Err(AppError::not_found("key"));
        };
        key.revoked_at = Some(clock.now());
        match store.commit(Tx::new().update(&mut key)).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The key keeps changing; try again."))
}

/// Sees to it that `secret` is a good key of `owner` with every scope: the first key of an install.
///
/// # Errors
/// `conflict` where the key was revoked; of the store.
pub async fn ensure<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    owner: &OwnerId,
    name: &str,
    secret: &str,
) -> AppResult<ApiKey> {
    let hash = hash(secret);
    let known: Option<ApiKey> = store.get(&keys::api_key(&hash)).await?;
    if let Some(known) = known {
        if known.is_good_at(ambient.now()) {
            return Ok(known);
        }
        let detail = format!("The key called {:?} was revoked; remove its file and start again.", known.name);
        return Err(AppError::new(ErrorCode::Conflict, detail));
    }
    let mut key = ApiKey {
        key_id: ambient.new_id(),
        hash,
        owner: owner.clone(),
        name: text::name("name", name)?,
        scope: Scope::Admin,
        projects: None,
        created_at: ambient.now(),
        expires_at: None,
        revoked_at: None,
        version: 0,
    };
    store.commit(Tx::new().create(&mut key)).await?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_256_random_bits_in_letters_and_digits() {
        let (one, two) = (new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 4 + SECRET_CHARS);
        assert!(one.strip_prefix("pvm_").unwrap().bytes().all(|b| b.is_ascii_alphanumeric()));
        let e2b = new_e2b_secret().unwrap();
        assert_eq!(e2b.len(), 44);
        assert!(e2b.strip_prefix("e2b_").unwrap().bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn a_key_is_stored_as_its_hash() {
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
