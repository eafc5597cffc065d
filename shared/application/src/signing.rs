//! The key that signs cursors and stream tickets. It is made once per install and kept in the table of records, so that
//! all functions share it and nobody has to hand it out.

use pvm_domain::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::keys_admin::new_secret;
use crate::ports::Clock;
use crate::records::record;
use crate::store::{ReadStore, StoreError, Tx, WriteStore};

/// The stored key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SigningKey {
    secret: String,
    created_at: Timestamp,
    version: u64,
}

record!(SigningKey, "signing_key", |_r| keys::signing_key());

/// The install's signing key.
///
/// # Errors
/// `unavailable` where none was made yet; of the store.
pub async fn load(store: &impl ReadStore) -> AppResult<String> {
    let found: Option<SigningKey> = store.get(&keys::signing_key()).await?;
    found.map(|key| key.secret).ok_or_else(|| {
        AppError::new(
            ErrorCode::Unavailable,
            "The install has no signing key yet; its first authorized call makes it.",
        )
    })
}

/// The install's signing key, made now where there is none.
///
/// # Errors
/// Of the store.
pub async fn ensure(store: &impl WriteStore, clock: &impl Clock) -> AppResult<String> {
    if let Some(found) = store.get::<SigningKey>(&keys::signing_key()).await? {
        return Ok(found.secret);
    }
    let mut key = SigningKey { secret: new_secret()?, created_at: clock.now(), version: 0 };
    match store.commit(Tx::new().create(&mut key)).await {
        Ok(_) => Ok(key.secret),
        Err(StoreError::Conflict { .. }) => load(store).await,
        Err(other) => Err(other.into()),
    }
}
