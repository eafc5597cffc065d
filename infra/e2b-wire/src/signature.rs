//! Signatures of `/files` URLs, by which a link works without the access token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "v1_";

/// What a signed link allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `GET /files`.
    Read,
    /// `POST /files`.
    Write,
}

impl Operation {
    /// The word inside the signed text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why a signed link is refused. The texts are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Neither a token nor a signature came.
    #[error("missing signature query parameter")]
    Missing,
    /// It does not belong to this path, operation, user, token and expiry.
    #[error("invalid signature")]
    Invalid,
    /// It was right, but its time is over.
    #[error("signature is already expired")]
    Expired,
}

/// Signs a link.
///
/// `path` is exactly the `path` query parameter, `user` the `username` one (empty when there is none),
/// `expires_at` unix seconds for `signature_expiration`.
pub fn sign(path: &str, operation: Operation, user: &str, token: &str, expires_at: Option<i64>) -> String {
    let mut hash = Sha256::new();
    for (index, part) in [path, operation.as_str(), user, token].into_iter().enumerate() {
        if index > 0 {
            hash.update(b":");
        }
        hash.update(part.as_bytes());
    }
    if let Some(expires_at) = expires_at {
        hash.update(format!(":{expires_at}").as_bytes());
    }
    format!("{PREFIX}{}", STANDARD_NO_PAD.encode(hash.finalize()))
}

/// Checks a link at `now` (unix seconds).
///
/// # Errors
/// [`SignatureError`]; expiry is only told to who holds a right signature.
pub fn verify(
    signature: Option<&str>,
    path: &str,
    operation: Operation,
    user: &str,
    token: &str,
    expires_at: Option<i64>,
    now: i64,
) -> Result<(), SignatureError> {
    let signature = signature.filter(|text| !text.is_empty()).ok_or(SignatureError::Missing)?;
    let expected = sign(path, operation, user, token, expires_at);
    if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
        return Err(SignatureError::Invalid);
    }
    match expires_at {
        Some(expires_at) if expires_at < now => Err(SignatureError::Expired),
        _ => Ok(()),
    }
}
