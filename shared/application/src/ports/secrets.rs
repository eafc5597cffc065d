//! Values of secrets.

use std::future::Future;

use pvm_domain::ids::ProjectId;

/// A secret's value. Does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

impl SecretValue {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Never put it into a log line or an error message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What went wrong in the secret store.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It could not be reached or failed; trying again is safe.
    #[error("the secret store did not answer")]
    Unavailable(#[source] anyhow::Error),
}

/// Reads values of secrets, by project and name; their references are records.
pub trait ReadSecrets: Send + Sync {
    /// The value; `None` where there is none.
    fn get_secret(
        &self,
        project: &ProjectId,
        name: &str,
    ) -> impl Future<Output = Result<Option<SecretValue>, SecretError>> + Send;
}

/// Keeps values of secrets.
pub trait KeepSecrets: Send + Sync {
    /// Stores a value, in place of the one before.
    fn put_secret(
        &self,
        project: &ProjectId,
        name: &str,
        value: SecretValue,
    ) -> impl Future<Output = Result<(), SecretError>> + Send;
    /// Forgets the value; a missing one is fine.
    fn delete_secret(
        &self,
        project: &ProjectId,
        name: &str,
    ) -> impl Future<Output = Result<(), SecretError>> + Send;
}
