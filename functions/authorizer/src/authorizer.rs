//! From a token or ticket to a principal.

use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::store::ReadStore;
use pvm_application::{keys, keys_admin};
use pvm_domain::key::{ApiKey, Principal};
use pvm_entry::principal::unauthorized;
use pvm_entry::{Signer, ticket};

use crate::issuer::Issuer;
use crate::jwks::FetchJson;

/// A token longer than this is none: JWTs stay far below, and hashing megabytes helps nobody.
const TOKEN_BYTES: usize = 16 * 1024;

/// What a request brings along.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The ticket of the query, where the route takes one.
    pub ticket: Option<&'a str>,
    /// The path, without a stage.
    pub path: &'a str,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Knows the tokens that are good.
#[derive(Debug)]
pub struct Authorizer<S, C, F> {
    store: S,
    clock: C,
    signer: Signer,
    issuer: Option<Issuer<F>>,
}

impl<S: ReadStore, C: Clock, F: FetchJson> Authorizer<S, C, F> {
    /// An authorizer; without an issuer only API keys and tickets are good.
    pub fn new(store: S, clock: C, signer: Signer, issuer: Option<Issuer<F>>) -> Self {
        Self { store, clock, signer, issuer }
    }

    /// Who the request speaks for.
    ///
    /// # Errors
    /// `unauthorized`; `unavailable` where the keys cannot be looked up.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> AppResult<Principal> {
        match (credentials.authorization, credentials.ticket) {
            (Some(header), _) => self.token(bearer(header).ok_or_else(unauthorized)?).await,
            (None, Some(ticket)) => ticket::open(&self.signer, self.clock.now(), ticket, credentials.path)
                .ok_or_else(unauthorized),
            (None, None) => Err(unauthorized()),
        }
    }

    /// Who a token speaks for.
    ///
    /// # Errors
    /// As [`Authorizer::authenticate`].
    pub async fn token(&self, token: &str) -> AppResult<Principal> {
        if token.len() > TOKEN_BYTES {
            return Err(unauthorized());
        }
        if token.starts_with("pvm_") || token.starts_with("e2b_") {
            return self.api_key(token).await;
        }
        match &self.issuer {
            Some(issuer) if token.bytes().filter(|byte| *byte == b'.').count() == 2 => {
                issuer.principal(token, self.clock.now()).await
            }
            _ => Err(unauthorized()),
        }
    }

    /// The key is looked up by its hash, so that neither the table nor the time it takes tells anything about it.
    async fn api_key(&self, token: &str) -> AppResult<Principal> {
        let key: Option<ApiKey> = self.store.get(&keys::api_key(&keys_admin::hash(token))).await?;
        let key = key.filter(|key| key.is_good_at(self.clock.now())).ok_or_else(unauthorized)?;
        Ok(Principal { owner: key.owner, scope: key.scope, projects: key.projects })
    }
}

/// The token of an `Authorization: Bearer` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_carries_a_token() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for bad in ["", "abc", "Basic abc", "Bearer", "Bearer "] {
            assert_eq!(bearer(bad), None, "{bad:?}");
        }
    }
}
