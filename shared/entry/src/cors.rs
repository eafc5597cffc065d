//! Which web pages may call the API from a browser.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderMap, HeaderValue};

/// Headers that a page may send.
const SENT: &str = "authorization, content-type, accept, if-match, idempotency-key, last-event-id, mcp-protocol-version, mcp-method, mcp-name";
/// Headers that a page may read.
const SHOWN: &str = "etag, location, retry-after, x-request-id";
/// Seconds a browser may remember a preflight.
const MAX_AGE: &str = "600";

/// The origins that are let in.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// Lets these origins in; `*` is any. Tokens travel in a header and never in cookies, so `*` gives nothing away.
    pub fn new(origins: &[String]) -> Self {
        Self { origins: origins.to_vec() }
    }

    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.origins.iter().any(|known| known == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = origin?;
        self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Adds what a browser needs to show an answer to the page at `origin`.
    pub fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(allowed) = self.allowed(origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN));
        }
    }

    /// Adds the answer to a preflight: `methods` are those of the path.
    pub fn mark_preflight(&self, origin: Option<&HeaderValue>, methods: &str, headers: &mut HeaderMap) {
        self.mark(origin, headers);
        if self.allowed(origin).is_some() {
            if let Ok(methods) = HeaderValue::from_str(methods) {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
            }
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(origins: &[&str], origin: &'static str) -> HeaderMap {
        let cors = Cors::new(&origins.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let mut headers = HeaderMap::new();
        cors.mark(Some(&HeaderValue::from_static(origin)), &mut headers);
        headers
    }

    #[test]
    fn only_a_configured_origin_is_let_in() {
        assert_eq!(
            marked(&["https://a.example"], "https://a.example")[ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://a.example"
        );
        assert!(
            !marked(&["https://a.example"], "https://b.example").contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)
        );
        assert!(marked(&[], "https://a.example").is_empty());
        assert_eq!(marked(&["*"], "https://b.example")[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
