//! Private ports: who may see what a sandbox serves.

use http::{HeaderMap, HeaderValue, Uri, header};
use pvm_e2b_wire::HEADER_TRAFFIC_TOKEN;
use pvm_e2b_wire::link::{PARAMETER, expires_at, verify};
use pvm_e2b_wire::list_query::parameters;
use pvm_e2b_wire::secret::Secret;

/// What a request may do at a private port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// It may pass.
    Granted,
    /// It may pass, and shall be remembered by this cookie.
    GrantedByLink(HeaderValue),
    /// It may not: it shows nothing.
    Missing,
    /// It may not: what it shows is wrong.
    Invalid,
}

/// Checks a request for `port` of the sandbox whose traffic token is `token`.
pub(super) fn check(
    token: &Secret,
    sandbox_id: &str,
    port: u16,
    uri: &Uri,
    headers: &HeaderMap,
    now: i64,
    void_up_to_ms: Option<u64>,
) -> Access {
    let given = headers.get(HEADER_TRAFFIC_TOKEN).and_then(|value| value.to_str().ok());
    if given.is_some_and(|given| token.matches(given)) {
        return Access::Granted;
    }
    let opens = |link: &str| verify(link, token.expose(), sandbox_id, port, now, void_up_to_ms);
    let in_query =
        parameters(uri.query().unwrap_or_default()).find(|(key, _)| key == PARAMETER).map(|(_, link)| link);
    if let Some(link) = in_query.filter(|link| opens(link))
        && let Some(cookie) = cookie(&link, now)
    {
        return Access::GrantedByLink(cookie);
    }
    if cookies(headers).any(|(name, value)| name == PARAMETER && opens(value)) {
        return Access::Granted;
    }
    if given.is_some() { Access::Invalid } else { Access::Missing }
}

/// Lives as long as the link.
fn cookie(link: &str, now: i64) -> Option<HeaderValue> {
    let lifetime = expires_at(link)?.saturating_sub(now).max(0);
    HeaderValue::from_str(&format!("{PARAMETER}={link}; Path=/; HttpOnly; SameSite=Lax; Max-Age={lifetime}"))
        .ok()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}

/// Takes the tokens out of a request before the service inside sees it.
pub(super) fn remove_tokens(uri: &mut Uri, headers: &mut HeaderMap) {
    headers.remove(HEADER_TRAFFIC_TOKEN);
    let others: Vec<String> = cookies(headers)
        .filter(|(name, _)| *name != PARAMETER)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if headers.contains_key(header::COOKIE) {
        headers.remove(header::COOKIE);
        if let Ok(value) = HeaderValue::from_str(&others.join("; "))
            && !others.is_empty()
        {
            headers.insert(header::COOKIE, value);
        }
    }
    let Some(query) = uri.query() else { return };
    let kept: Vec<_> = query.split('&').filter(|pair| pair.split('=').next() != Some(PARAMETER)).collect();
    if kept.len() != query.split('&').count() {
        let path = if kept.is_empty() {
            uri.path().to_owned()
        } else {
            format!("{}?{}", uri.path(), kept.join("&"))
        };
        if let Ok(changed) = path.parse() {
            *uri = changed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvm_e2b_wire::link::{Period, sign};

    #[test]
    fn header_link_and_cookie_open_a_private_port() {
        let token = Secret::new("t");
        let link = sign("t", "i1", 80, Period { issued_at_ms: 5_000, expires_at: 1000 });
        let mut headers = HeaderMap::new();
        let plain: Uri = "/a?b=1".parse().unwrap();
        assert_eq!(check(&token, "i1", 80, &plain, &headers, 10, None), Access::Missing);
        let with_link: Uri = format!("/a?b=1&{PARAMETER}={link}").parse().unwrap();
        let Access::GrantedByLink(cookie) = check(&token, "i1", 80, &with_link, &headers, 10, None) else {
            panic!("refused")
        };
        assert!(cookie.to_str().unwrap().ends_with("Max-Age=990"));
        headers.insert(header::COOKIE, format!("x=y; {PARAMETER}={link}").parse().unwrap());
        assert_eq!(check(&token, "i1", 80, &plain, &headers, 10, None), Access::Granted);
        assert_eq!(check(&token, "i1", 80, &plain, &headers, 1001, None), Access::Missing);
        assert_eq!(check(&token, "i1", 80, &plain, &headers, 10, Some(5_000)), Access::Missing);
        headers.insert(HEADER_TRAFFIC_TOKEN, "u".parse().unwrap());
        assert_eq!(check(&token, "i1", 80, &plain, &headers, 1001, None), Access::Invalid);
        headers.insert(HEADER_TRAFFIC_TOKEN, "t".parse().unwrap());
        assert_eq!(check(&token, "i1", 80, &plain, &headers, 1001, None), Access::Granted);
    }

    #[test]
    fn the_service_inside_sees_no_token() {
        let mut uri: Uri = format!("/a?b=1&{PARAMETER}=x").parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("x=y; {PARAMETER}=z").parse().unwrap());
        headers.insert(HEADER_TRAFFIC_TOKEN, "t".parse().unwrap());
        remove_tokens(&mut uri, &mut headers);
        assert_eq!(uri, "/a?b=1");
        assert_eq!(headers[header::COOKIE], "x=y");
        assert!(!headers.contains_key(HEADER_TRAFFIC_TOKEN));
    }
}
