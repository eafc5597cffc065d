//! The operator's own way to a key: the first one of an install in the cloud, where no key is good yet. It is called
//! with the right to invoke the function, never over HTTP.

use pvm_application::error::{AppError, AppResult};
use pvm_application::keys_admin;
use pvm_application::ports::Ambient;
use pvm_application::store::WriteStore;
use pvm_domain::ids::OwnerId;
use serde::{Deserialize, Serialize};

/// For whom.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueKey {
    /// The owner, 1 to 128 characters as in a principal's id.
    pub owner: String,
    /// What the owner calls the key.
    pub name: String,
}

/// The key, shown this once.
#[derive(Clone, Serialize)]
pub struct IssuedKey {
    /// The secret itself.
    pub key: String,
    /// Its id, by which it is revoked.
    pub key_id: String,
}

impl std::fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Makes a key with every scope.
///
/// # Errors
/// `invalid` for an owner or name that is none; of the store.
pub async fn handle(
    store: &impl WriteStore,
    ambient: &impl Ambient,
    input: IssueKey,
) -> AppResult<IssuedKey> {
    let owner = OwnerId::parse(&input.owner).map_err(AppError::from)?;
    let key = keys_admin::new_secret()?;
    let made = keys_admin::ensure(store, ambient, &owner, &input.name, &key).await?;
    Ok(IssuedKey { key, key_id: made.key_id.to_string() })
}
