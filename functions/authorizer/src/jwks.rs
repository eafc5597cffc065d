//! The issuer's public keys: fetched when first needed, kept, and fetched again for a key that is not known yet.

use std::future::Future;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use pvm_domain::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

/// Keys are fetched again after this many seconds, so that a withdrawn one stops being good.
const KEEP_SECS: i64 = 3_600;
/// An unknown key id makes keys be fetched again at most this often, in seconds: tokens of strangers must not make us
/// flood the issuer.
const RETRY_SECS: i64 = 30;
/// The most bytes of a key set.
const MOST: usize = 512 * 1024;

/// Gets JSON documents.
pub trait FetchJson: Send + Sync {
    /// The document at `url`.
    fn fetch(&self, url: &str) -> impl Future<Output = anyhow::Result<Value>> + Send;
}

/// Gets JSON documents over HTTP.
#[derive(Debug, Clone)]
pub struct HttpJson {
    client: reqwest::Client,
}

impl HttpJson {
    /// A client with short time limits: requests wait for it.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::limited(3))
            .build()?;
        Ok(Self { client })
    }
}

impl FetchJson for HttpJson {
    async fn fetch(&self, url: &str) -> anyhow::Result<Value> {
        let mut answer = self.client.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            body.extend_from_slice(&piece);
            anyhow::ensure!(body.len() <= MOST, "the document has more than {MOST} bytes");
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// At this URL.
    Keys(String),
    /// Where this discovery document says.
    Discovery(String),
}

#[derive(Debug, Default)]
struct Cache {
    keys: Vec<(Option<String>, AlgorithmFamily, DecodingKey)>,
    fetched_at: Option<Timestamp>,
}

/// The issuer's keys.
#[derive(Debug)]
pub(crate) struct Jwks<F> {
    fetch: F,
    source: Source,
    cache: Mutex<Cache>,
}

impl<F: FetchJson> Jwks<F> {
    pub(crate) fn new(fetch: F, source: Source) -> Self {
        Self { fetch, source, cache: Mutex::default() }
    }

    /// The keys that may have signed a token with this header, the issuer asked where it must be.
    pub(crate) async fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> anyhow::Result<Vec<DecodingKey>> {
        // Held while fetching: others that need the keys wait for this one fetch.
        let mut cache = self.cache.lock().await;
        let age = cache.fetched_at.map(|at| now.duration_since(at).as_secs());
        let known = matching(&cache, kid, algorithm);
        let fresh = match age {
            None => false,
            Some(age) if known.is_empty() => age < RETRY_SECS,
            Some(age) => age < KEEP_SECS,
        };
        if fresh {
            return Ok(known);
        }
        match self.fetch_keys().await {
            Ok(keys) => *cache = Cache { keys, fetched_at: Some(now) },
            // Keys that were good an hour ago are better than turning everybody away.
            Err(error) if !known.is_empty() => {
                tracing::warn!(%error, "the issuer's keys could not be fetched again; the known ones are used");
            }
            Err(error) => return Err(error),
        }
        Ok(matching(&cache, kid, algorithm))
    }

    async fn fetch_keys(&self) -> anyhow::Result<Vec<(Option<String>, AlgorithmFamily, DecodingKey)>> {
        let url = match &self.source {
            Source::Keys(url) => url.clone(),
            Source::Discovery(url) => {
                let document = self.fetch.fetch(url).await?;
                let found = document.get("jwks_uri").and_then(Value::as_str).map(str::to_owned);
                found.ok_or_else(|| anyhow::anyhow!("{url} names no jwks_uri"))?
            }
        };
        let document = self.fetch.fetch(&url).await?;
        let keys = document.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
        // One key of a kind that we cannot read must not hide the others.
        let set: Vec<Jwk> = keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        let set = JwkSet { keys: set };
        let signing =
            |key: &&Jwk| key.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
        let read = |key: &Jwk| {
            let decoding = DecodingKey::from_jwk(key).ok()?;
            Some((key.common.key_id.clone(), decoding.family(), decoding))
        };
        Ok(set.keys.iter().filter(signing).filter_map(read).collect())
    }
}

fn matching(cache: &Cache, kid: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
    let fits = |known: &&(Option<String>, AlgorithmFamily, DecodingKey)| {
        known.1 == algorithm.family() && (kid.is_none() || known.0.as_deref() == kid)
    };
    cache.keys.iter().filter(fits).map(|known| known.2.clone()).collect()
}
