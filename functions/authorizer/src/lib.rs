//! Who a request speaks for: API keys, tokens of a configured OIDC issuer, stream tickets. The Lambda authorizer and the
//! embedded front ask the same [`Authorizer`].
#![warn(missing_docs)]

mod authorizer;
pub mod issue_key;
mod issuer;
mod jwks;
pub mod policy;

pub use authorizer::{Authorizer, Credentials};
pub use issuer::{Issuer, IssuerSettings};
pub use jwks::{FetchJson, HttpJson};
