//! Links to private ports, OUR extension: an expiring token that the holder of a sandbox's traffic access token can
//! make without asking the server, and that opens one port of one sandbox.
//!
//! The token goes into the query parameter [`PARAMETER`] of the port's URL; the server answers with a cookie of the
//! same name, so that what the page loads works too.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Query parameter and cookie that carry the token.
pub const PARAMETER: &str = "pvm_token";

/// Makes a token that opens `port` of the sandbox until `expires_at` (unix seconds).
pub fn sign(traffic_token: &str, sandbox_id: &str, port: u16, expires_at: i64) -> String {
    format!("{expires_at}.{}", tag(traffic_token, sandbox_id, port, expires_at))
}

/// Whether a token opens `port` of the sandbox at `now` (unix seconds).
pub fn verify(token: &str, traffic_token: &str, sandbox_id: &str, port: u16, now: i64) -> bool {
    use subtle::ConstantTimeEq as _;
    let Some((expires_at, given)) = token.split_once('.') else { return false };
    let Ok(expires_at) = expires_at.parse::<i64>() else { return false };
    let expected = tag(traffic_token, sandbox_id, port, expires_at);
    bool::from(expected.as_bytes().ct_eq(given.as_bytes())) && now <= expires_at
}

fn tag(traffic_token: &str, sandbox_id: &str, port: u16, expires_at: i64) -> String {
    use base64::Engine as _;
    // HMAC takes keys of any length, so this cannot fail; an empty tag would match nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(traffic_token.as_bytes()) else { return String::new() };
    mac.update(format!("{sandbox_id}:{port}:{expires_at}").as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_its_own_port_until_it_expires() {
        let token = sign("secret", "i1", 3000, 100);
        assert!(verify(&token, "secret", "i1", 3000, 100));
        assert!(!verify(&token, "secret", "i1", 3000, 101));
        assert!(!verify(&token, "secret", "i1", 3001, 100));
        assert!(!verify(&token, "secret", "i2", 3000, 100));
        assert!(!verify(&token, "other", "i1", 3000, 100));
    }

    #[test]
    fn a_changed_expiry_is_noticed() {
        let token = sign("secret", "i1", 3000, 100);
        let later = token.replacen("100.", "999.", 1);
        assert!(!verify(&later, "secret", "i1", 3000, 100));
        assert!(!verify("", "secret", "i1", 3000, 100));
        assert!(!verify("100.", "secret", "i1", 3000, 100));
    }
}
