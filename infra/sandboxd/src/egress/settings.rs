//! The operator's settings of the way out.

use std::env;
use std::path::PathBuf;

use super::cidr::Cidr;

/// Ranges opened on purpose, separated by commas: for package mirrors with private addresses.
pub(super) const ALLOW_CIDRS_VARIABLE: &str = "PVM_EGRESS_ALLOW_CIDRS";
/// A PEM file of authorities that servers with header rules may have their certificates from, besides the machine's own:
/// for private hosts.
pub(super) const CA_FILE_VARIABLE: &str = "PVM_EGRESS_CA_FILE";
/// Connections one sandbox may have open to the outside at a time.
const DEFAULT_CONNECTIONS: usize = 256;

/// The machine's own proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Value of the `Proxy-Authorization` header, when it asks for one.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for UpstreamProxy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// What sandboxes' traffic passes through, and the exceptions from what is never reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSettings {
    /// Ranges that sandboxes may reach although they are private.
    pub allow_cidrs: Vec<Cidr>,
    /// Proxy for plain HTTP.
    pub http_proxy: Option<UpstreamProxy>,
    /// Proxy for everything else.
    pub https_proxy: Option<UpstreamProxy>,
    /// Names and addresses that need no proxy; `*` for all.
    pub no_proxy: Vec<String>,
    /// Authorities that servers with header rules may have their certificates from, besides the machine's own; PEM.
    pub ca_file: Option<PathBuf>,
    /// Open connections of one sandbox.
    pub connections: usize,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            allow_cidrs: Vec::new(),
            http_proxy: None,
            https_proxy: None,
            no_proxy: Vec::new(),
            ca_file: None,
            connections: DEFAULT_CONNECTIONS,
        }
    }
}

impl EgressSettings {
    /// `PVM_EGRESS_ALLOW_CIDRS` and the usual proxy variables. A range or proxy that cannot be read is left out,
    /// with a warning: it can only make less reachable.
    pub fn from_environment() -> Self {
        let variable = |names: &[&str]| {
            names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        };
        let proxy = |names: &[&str]| {
            let value = variable(names)?;
            let parsed = parse_proxy(&value);
            if parsed.is_none() {
                tracing::warn!(variable = names[0], "not the URL of an HTTP proxy; it is ignored");
            }
            parsed
        };
        let ranges = variable(&[ALLOW_CIDRS_VARIABLE]).unwrap_or_default();
        Self {
            allow_cidrs: list(&ranges)
                .filter_map(|entry| match entry.parse() {
                    Ok(range) => Some(range),
                    Err(error) => {
                        tracing::warn!(variable = ALLOW_CIDRS_VARIABLE, %error, "ignored");
                        None
                    }
                })
                .collect(),
            http_proxy: proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https_proxy: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            no_proxy: list(&variable(&["no_proxy", "NO_PROXY"]).unwrap_or_default())
                .map(|entry| entry.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase())
                .collect(),
            ca_file: variable(&[CA_FILE_VARIABLE]).map(PathBuf::from),
            connections: DEFAULT_CONNECTIONS,
        }
    }

    /// The proxy for a host, if it needs one.
    pub(super) fn proxy_for(&self, host: &str, plain_http: bool) -> Option<&UpstreamProxy> {
        let direct = self.no_proxy.iter().any(|entry| {
            entry == "*"
                || entry == host
                || host.strip_suffix(entry).is_some_and(|front| front.ends_with('.'))
        });
        if direct {
            return None;
        }
        if plain_http { self.http_proxy.as_ref() } else { self.https_proxy.as_ref() }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn parse_proxy(text: &str) -> Option<UpstreamProxy> {
    use base64::Engine as _;
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return None,
        None => text,
    };
    let authority = rest.split('/').next()?;
    let (credentials, address) = match authority.rsplit_once('@') {
        Some((credentials, address)) => (Some(credentials), address),
        None => (None, authority),
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (address, 80),
    };
    let authorization = credentials.map(|credentials| {
        let plain: Vec<u8> = percent_encoding::percent_decode_str(credentials).collect();
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
    });
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| UpstreamProxy { host: host.to_owned(), port, authorization })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_urls_are_read() {
        let proxy = parse_proxy("http://me:p%40ss@proxy.example:3129/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3129));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert!(!format!("{proxy:?}").contains("Basic"));
        assert_eq!(parse_proxy("proxy.example").unwrap().port, 80);
        assert!(parse_proxy("socks5://proxy.example:1080").is_none());
    }

    #[test]
    fn no_proxy_covers_a_name_and_what_is_below_it() {
        let settings = EgressSettings {
            https_proxy: parse_proxy("http://p:1"),
            no_proxy: vec!["example.com".into()],
            ..EgressSettings::default()
        };
        assert!(settings.proxy_for("example.com", false).is_none());
        assert!(settings.proxy_for("a.example.com", false).is_none());
        assert!(settings.proxy_for("notexample.com", false).is_some());
    }
}
