//! Tokens of an OIDC issuer: signature, issuer, audience, time, subject, scope.

use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_domain::Timestamp;
use pvm_domain::ids::OwnerId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_entry::principal::unauthorized;
use pvm_entry::settings::{BadSettings, Settings};
use serde::Deserialize;
use url::Url;

use crate::jwks::{FetchJson, Jwks, Source};

/// How far the issuer's clock and ours may differ, in seconds.
const SKEW_SECS: i64 = 60;
/// The owner of the first keys of an install: no token may speak for it.
const RESERVED: &str = "local";

/// Which tokens are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    issuer: String,
    audience: String,
    source: Source,
    default_scope: Scope,
}

impl IssuerSettings {
    /// The issuer of the settings; `None` where there is none.
    ///
    /// # Errors
    /// An issuer without an audience, or keys that would be fetched in the clear.
    pub fn of(settings: &Settings) -> Result<Option<Self>, BadSettings> {
        let Some(issuer) = settings.oidc_issuer.clone() else { return Ok(None) };
        let Some(audience) = settings.oidc_audience.clone() else {
            return Err(BadSettings(vec![
                "PVM_OIDC_AUDIENCE must be set where PVM_OIDC_ISSUER is".to_owned(),
            ]));
        };
        let source = if let Some(url) = &settings.oidc_jwks_url {
            Source::Keys(checked("PVM_OIDC_JWKS_URL", url)?)
        } else {
            let base = checked("PVM_OIDC_ISSUER", &issuer)?;
            Source::Discovery(format!("{}/.well-known/openid-configuration", base.trim_end_matches('/')))
        };
        Ok(Some(Self { issuer, audience, source, default_scope: settings.oidc_default_scope }))
    }
}

/// Keys that come in the clear could be anybody's; only loopback is trusted so.
fn checked(name: &str, text: &str) -> Result<String, BadSettings> {
    let ok = Url::parse(text).is_ok_and(|url| {
        let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        url.scheme() == "https" || (url.scheme() == "http" && loopback)
    });
    if ok { Ok(text.to_owned()) } else { Err(BadSettings(vec![format!("{name} must be an https URL")])) }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    scp: Option<Texts>,
}

/// A claim that is one text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// Checks tokens of one issuer.
#[derive(Debug)]
pub struct Issuer<F> {
    settings: IssuerSettings,
    keys: Jwks<F>,
}

impl<F: FetchJson> Issuer<F> {
    /// An issuer whose keys `fetch` gets.
    pub fn new(settings: IssuerSettings, fetch: F) -> Self {
        Self { keys: Jwks::new(fetch, settings.source.clone()), settings }
    }

    /// Who a token speaks for.
    ///
    /// # Errors
    /// `unauthorized` without telling why (the log does); `unavailable` where the issuer's keys cannot be had.
    pub async fn principal(&self, token: &str, now: Timestamp) -> AppResult<Principal> {
        let header = decode_header(token).map_err(|error| refused(&error.to_string()))?;
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) {
            return Err(refused("the algorithm is not RS256 or ES256"));
        }
        let keys = self.keys.candidates(header.kid.as_deref(), header.alg, now).await.map_err(|error| {
            AppError::new(ErrorCode::Unavailable, "The token's issuer does not answer; try again.")
                .retry_after(Duration::from_secs(5))
                .because(error)
        })?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The times are checked below, against the clock that was handed in.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = keys.iter().find_map(|key| decode::<Claims>(token, key, &validation).ok());
        let claims = claims.ok_or_else(|| refused("no key, or wrong signature, issuer or audience"))?.claims;
        let now = now.as_second();
        if now >= claims.exp.saturating_add(SKEW_SECS) {
            return Err(refused("it has expired"));
        }
        if claims.nbf.is_some_and(|nbf| now.saturating_add(SKEW_SECS) < nbf) {
            return Err(refused("it is not good yet"));
        }
        let owner = OwnerId::parse(&claims.sub).map_err(|error| refused(&error.to_string()))?;
        if owner.as_str() == RESERVED {
            return Err(refused("its subject is reserved"));
        }
        Ok(Principal { owner, scope: scope(&claims).unwrap_or(self.settings.default_scope), projects: None })
    }
}

fn refused(why: &str) -> AppError {
    tracing::debug!(why, "a token was refused");
    unauthorized()
}

/// The widest of our scopes that the token names.
fn scope(claims: &Claims) -> Option<Scope> {
    let many: Vec<&str> = match &claims.scp {
        Some(Texts::One(text)) => text.split_whitespace().collect(),
        Some(Texts::Many(texts)) => texts.iter().map(String::as_str).collect(),
        None => Vec::new(),
    };
    let all = claims.scope.iter().flat_map(|text| text.split_whitespace()).chain(many);
    all.filter_map(|name| match name {
        "pvm:read" => Some(Scope::Read),
        "pvm:write" => Some(Scope::Write),
        "pvm:admin" => Some(Scope::Admin),
        _ => None,
    })
    .max()
}
