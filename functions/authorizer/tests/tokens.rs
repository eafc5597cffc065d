//! Tokens of an issuer, signed here with real keys and checked as in production.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use pvm_application::error::ErrorCode;
use pvm_authorizer::{FetchJson, Issuer, IssuerSettings};
use pvm_domain::Timestamp;
use pvm_domain::project::Scope;
use pvm_entry::Settings;
use serde_json::{Value, json};

const NOW: i64 = 1_800_000_000;

fn now(offset: i64) -> Timestamp {
    Timestamp::from_second(NOW + offset).unwrap()
}

struct Key {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        Self { kid, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
               "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65])})
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "ES256", "typ": "JWT", "kid": self.kid}), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", B64.encode(signature.as_ref()))
    }
}

/// An issuer's web site: discovery and keys.
#[derive(Default)]
struct Site {
    keys: Mutex<Vec<Value>>,
    fetched: AtomicUsize,
    down: Mutex<bool>,
}

impl FetchJson for &Site {
    async fn fetch(&self, url: &str) -> anyhow::Result<Value> {
        anyhow::ensure!(!*self.down.lock().unwrap(), "down");
        self.fetched.fetch_add(1, Ordering::SeqCst);
        Ok(match url {
            "https://issuer.example/.well-known/openid-configuration" => {
                json!({"jwks_uri": "https://issuer.example/keys"})
            }
            "https://issuer.example/keys" => json!({"keys": *self.keys.lock().unwrap()}),
            other => anyhow::bail!("no such page: {other}"),
        })
    }
}

fn issuer(site: &Site) -> Issuer<&Site> {
    let settings = Settings::from_lookup(|name| match name {
        "PVM_OIDC_ISSUER" => Some("https://issuer.example/".to_owned()),
        "PVM_OIDC_AUDIENCE" => Some("pvm".to_owned()),
        "PVM_OIDC_DEFAULT_SCOPE" => Some("write".to_owned()),
        _ => None,
    });
    Issuer::new(IssuerSettings::of(&settings.unwrap()).unwrap().unwrap(), site)
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example/", "aud": ["other", "pvm"], "sub": "auth0|ann", "exp": NOW + 300})
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

#[tokio::test]
async fn a_good_token_speaks_for_its_subject() {
    let (site, key) = (Site::default(), Key::new("one"));
    site.keys.lock().unwrap().push(key.jwk());
    let issuer = issuer(&site);
    let principal = issuer.principal(&key.sign(&claims()), now(0)).await.unwrap();
    assert_eq!((principal.owner.as_str(), principal.scope), ("auth0|ann", Scope::Write));
    let scoped = key.sign(&with("scope", json!("openid pvm:read")));
    assert_eq!(issuer.principal(&scoped, now(0)).await.unwrap().scope, Scope::Read);
    let scoped = key.sign(&with("scp", json!(["pvm:read", "pvm:admin"])));
    assert_eq!(issuer.principal(&scoped, now(0)).await.unwrap().scope, Scope::Admin);
    assert_eq!(site.fetched.load(Ordering::SeqCst), 2, "discovery and keys are fetched once");
}

#[tokio::test]
async fn a_token_with_anything_wrong_is_refused() {
    let (site, key, stranger) = (Site::default(), Key::new("one"), Key::new("one"));
    site.keys.lock().unwrap().push(key.jwk());
    let issuer = issuer(&site);
    let mut without_exp = claims();
    without_exp.as_object_mut().unwrap().remove("exp");
    let mut without_aud = claims();
    without_aud.as_object_mut().unwrap().remove("aud");
    let bad = [
        key.sign(&with("iss", json!("https://issuer.example"))),
        key.sign(&with("aud", json!("other"))),
        key.sign(&with("exp", json!(NOW - 61))),
        key.sign(&with("nbf", json!(NOW + 61))),
        key.sign(&with("sub", json!("local"))),
        key.sign(&with("sub", json!("a#b"))),
        key.sign(&without_exp),
        key.sign(&without_aud),
        stranger.sign(&claims()),
        key.sign_as(&json!({"alg": "none"}), &claims()),
        key.sign_as(&json!({"alg": "HS256", "kid": "one"}), &claims()),
        key.sign_as(&json!({"alg": "RS256", "kid": "one"}), &claims()),
        format!("{}x", key.sign(&claims())),
        "a.b.c".to_owned(),
    ];
    for (place, token) in bad.iter().enumerate() {
        let refused = issuer.principal(token, now(0)).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::Unauthorized, "token {place}");
    }
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let (site, key) = (Site::default(), Key::new("one"));
    site.keys.lock().unwrap().push(key.jwk());
    let issuer = issuer(&site);
    assert!(issuer.principal(&key.sign(&with("exp", json!(NOW - 59))), now(0)).await.is_ok());
    assert!(issuer.principal(&key.sign(&with("nbf", json!(NOW + 59))), now(0)).await.is_ok());
}

#[tokio::test]
async fn a_new_key_is_found_and_strangers_do_not_flood_the_issuer() {
    let (site, old, new) = (Site::default(), Key::new("old"), Key::new("new"));
    site.keys.lock().unwrap().push(old.jwk());
    let issuer = issuer(&site);
    issuer.principal(&old.sign(&claims()), now(0)).await.unwrap();
    site.keys.lock().unwrap().push(new.jwk());
    for _ in 0..10 {
        assert!(issuer.principal(&new.sign(&claims()), now(10)).await.is_err());
    }
    assert_eq!(site.fetched.load(Ordering::SeqCst), 2, "no new fetch within half a minute");
    assert!(issuer.principal(&new.sign(&claims()), now(40)).await.is_ok());
}

#[tokio::test]
async fn known_keys_outlast_an_issuer_that_is_down_and_none_means_try_again() {
    let (site, key) = (Site::default(), Key::new("one"));
    site.keys.lock().unwrap().push(key.jwk());
    let issuer = issuer(&site);
    *site.down.lock().unwrap() = true;
    let away = issuer.principal(&key.sign(&claims()), now(0)).await.unwrap_err();
    assert_eq!(away.code, ErrorCode::Unavailable);
    *site.down.lock().unwrap() = false;
    issuer.principal(&key.sign(&claims()), now(0)).await.unwrap();
    *site.down.lock().unwrap() = true;
    let later = key.sign(&with("exp", json!(NOW + 9_000)));
    assert!(issuer.principal(&later, now(4_000)).await.is_ok());
}

#[test]
fn an_issuer_needs_an_audience_and_an_encrypted_way_to_its_keys() {
    let of = |pairs: &'static [(&str, &str)]| {
        let lookup = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
        IssuerSettings::of(&Settings::from_lookup(lookup).unwrap())
    };
    assert!(of(&[]).unwrap().is_none());
    assert!(of(&[("PVM_OIDC_ISSUER", "https://a.example")]).is_err());
    assert!(of(&[("PVM_OIDC_ISSUER", "http://a.example"), ("PVM_OIDC_AUDIENCE", "pvm")]).is_err());
    assert!(of(&[("PVM_OIDC_ISSUER", "http://127.0.0.1:9"), ("PVM_OIDC_AUDIENCE", "pvm")]).is_ok());
}
