//! Links to private ports, OUR extension: an expiring token that the holder of a sandbox's traffic access token can
//! make without asking the server, and that opens one port of one sandbox.
//!
//! The token goes into the query parameter [`PARAMETER`] of the port's URL; the server answers with a cookie of the
//! same name, so that what the page loads works too.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Query parameter and cookie that carry the token.
pub const PARAMETER: &str = "pvm_token";

/// When a link is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// When it was made, in unix milliseconds: a server that voids links voids those made up to then.
    pub issued_at_ms: u64,
    /// Until when it is good, in unix seconds.
    pub expires_at: i64,
}

/// Makes a token that opens `port` of the sandbox for a while.
pub fn sign(traffic_token: &str, sandbox_id: &str, port: u16, period: Period) -> String {
    let tag = tag(traffic_token, sandbox_id, port, period);
    format!("{}.{}.{tag}", period.issued_at_ms, period.expires_at)
}

/// Until when a token claims to be good, in unix seconds; whether it is one at all is for [`verify`].
pub fn expires_at(token: &str) -> Option<i64> {
    parts(token).map(|(period, _)| period.expires_at)
}

fn parts(token: &str) -> Option<(Period, &str)> {
    let mut parts = token.splitn(3, '.');
    let (issued_at_ms, expires_at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((Period { issued_at_ms, expires_at }, parts.next()?))
}

/// Whether a token opens `port` of the sandbox at `now` (unix seconds), where links made up to `void_up_to_ms` (unix
/// milliseconds) are void.
pub fn verify(
    token: &str,
    traffic_token: &str,
    sandbox_id: &str,
    port: u16,
    now: i64,
    void_up_to_ms: Option<u64>,
) -> bool {
    use subtle::ConstantTimeEq as _;
    let Some((period, given)) = parts(token) else { return false };
    let expected = tag(traffic_token, sandbox_id, port, period);
    let is_void = void_up_to_ms.is_some_and(|up_to| period.issued_at_ms <= up_to);
    bool::from(expected.as_bytes().ct_eq(given.as_bytes())) && now <= period.expires_at && !is_void
}

fn tag(traffic_token: &str, sandbox_id: &str, port: u16, period: Period) -> String {
    use base64::Engine as _;
    // HMAC takes keys of any length, so this cannot fail; an empty tag would match nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(traffic_token.as_bytes()) else { return String::new() };
    mac.update(format!("{sandbox_id}:{port}:{}:{}", period.issued_at_ms, period.expires_at).as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Period = Period { issued_at_ms: 50_000, expires_at: 100 };

    #[test]
    fn a_link_opens_its_own_port_until_it_expires() {
        let token = sign("secret", "i1", 3000, PERIOD);
        let opens = |secret, sandbox, port, now| verify(&token, secret, sandbox, port, now, None);
        assert!(opens("secret", "i1", 3000, 100));
        assert!(!opens("secret", "i1", 3000, 101));
        assert!(!opens("secret", "i1", 3001, 100));
        assert!(!opens("secret", "i2", 3000, 100));
        assert!(!opens("other", "i1", 3000, 100));
        assert_eq!(expires_at(&token), Some(100));
    }

    #[test]
    fn links_made_up_to_a_revocation_are_void() {
        let token = sign("secret", "i1", 3000, PERIOD);
        let opens = |void| verify(&token, "secret", "i1", 3000, 10, Some(void));
        assert!(opens(49_999));
        assert!(!opens(50_000) && !opens(60_000));
    }

    #[test]
    fn a_changed_period_is_noticed() {
        let token = sign("secret", "i1", 3000, PERIOD);
        let refused = |token: &str| !verify(token, "secret", "i1", 3000, 100, None);
        assert!(refused(&token.replacen(".100.", ".999.", 1)));
        assert!(refused(&token.replacen("50000.", "90000.", 1)));
        assert!(refused("") && refused("100.") && refused("1.100.") && refused("1.100"));
    }
}
