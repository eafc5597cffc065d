//! Secrets on the wire. A value goes in and never comes out.

use jiff::Timestamp;
use pvm_domain::secret::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `PUT /api/projects/{project_id}/secrets/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutSecret {
    /// The one host that gets it, over HTTPS only: a name such as `git.example.com`, with `:port` where that is not 443.
    #[schemars(length(min = 1, max = 260))]
    pub host: String,
    /// The header that carries it, such as `authorization`.
    #[schemars(length(min = 1, max = 128))]
    pub header: String,
    /// The whole value of the header, such as `Bearer abc`; at most 8,192 bytes of visible ASCII. Never read back.
    #[schemars(length(min = 1, max = 8192))]
    pub value: String,
}

impl std::fmt::Debug for PutSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PutSecret")
            .field("host", &self.host)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// The host that gets it.
    pub host: String,
    /// The header that carries it.
    pub header: String,
    /// When it was last set.
    #[schemars(schema_with = "crate::time::time")]
    pub updated_at: Timestamp,
    /// Counts the changes; the `ETag`.
    pub version: u64,
}

impl From<SecretRef> for Secret {
    fn from(secret: SecretRef) -> Self {
        Self {
            name: secret.name,
            host: secret.host,
            header: secret.header,
            updated_at: secret.updated_at,
            version: secret.version,
        }
    }
}
