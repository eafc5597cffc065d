//! What one sandbox may reach.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pvm_e2b_wire::ENVD_PORT;
use pvm_e2b_wire::network::{ALL_TRAFFIC, EgressConfig};
use pvm_e2b_wire::secret::Secret;

use super::cidr::Cidr;
use super::socks::SocksProxy;
use crate::store::Record;

/// Ports on which TLS is expected, and header rules therefore work by interception.
const TLS_PORTS: [u16; 1] = [443];
/// Most rules of one sandbox: bounds what each connection costs.
const MAX_RULES: usize = 1000;

/// Compiled rules of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    allow: Vec<Cidr>,
    allow_names: Vec<String>,
    deny: Vec<Cidr>,
    deny_all: bool,
    headers: BTreeMap<String, Vec<(String, Secret)>>,
    tls_ports: Vec<u16>,
    socks: Option<SocksProxy>,
}

/// Where a connection goes: what the client named, and the address that it would really lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Lower case, without a trailing dot; an address as text when the client named one.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Not known when an outer proxy resolves names and this machine cannot.
    pub(crate) address: Option<IpAddr>,
}

impl Policy {
    /// The rules of a sandbox's record. They have been checked when they came in.
    pub(crate) fn of(record: &Record) -> Self {
        let egress = record.network.as_ref().map(|network| &network.egress);
        let mut policy = Self {
            deny_all: record.allow_internet_access == Some(false),
            tls_ports: TLS_PORTS.to_vec(),
            ..Self::default()
        };
        let Some(egress) = egress else { return policy };
        for entry in &egress.allow_out {
            match entry.parse() {
                Ok(range) => policy.allow.push(range),
                Err(_) => policy.allow_names.push(normal_name(entry)),
            }
        }
        policy.deny = egress.deny_out.iter().filter_map(|entry| entry.parse().ok()).collect();
        policy.deny_all |= policy.deny.iter().any(Cidr::is_all);
        policy.tls_ports.extend(egress.https_ports.iter().flatten());
        policy.socks = egress.egress_proxy.as_ref().and_then(|proxy| SocksProxy::parse(proxy).ok());
        for (domain, rules) in &egress.rules {
            let headers = rules
                .iter()
                .filter_map(|rule| rule.transform.as_ref())
                .flat_map(|transform| transform.headers.clone())
                .collect();
            policy.headers.insert(normal_name(domain), headers);
        }
        policy
    }

    /// Whether the sandbox's own rules allow the connection. Allowing wins over denying.
    pub(crate) fn allows(&self, target: &Target) -> bool {
        let named = self.allow_names.iter().any(|pattern| name_fits(pattern, &target.host));
        let in_any = |ranges: &[Cidr]| {
            target.address.is_some_and(|address| ranges.iter().any(|range| range.contains(address)))
        };
        if named || in_any(&self.allow) {
            return true;
        }
        // An address that is not known cannot be shown to be outside a denied range.
        let unknown = target.address.is_none() && !self.deny.is_empty();
        !(self.deny_all || unknown || in_any(&self.deny))
    }

    /// Headers to set on requests to a host; nothing when it has no rule.
    pub(crate) fn headers(&self, host: &str) -> Option<&[(String, Secret)]> {
        self.headers
            .get(host)
            .or_else(|| {
                // The longest pattern says most.
                let fitting = self.headers.iter().filter(|(pattern, _)| name_fits(pattern, host));
                fitting.max_by_key(|(pattern, _)| pattern.len()).map(|(_, rule)| rule)
            })
            .map(Vec::as_slice)
            .filter(|headers| !headers.is_empty())
    }

    /// The proxy that everything goes through.
    pub(super) fn socks(&self) -> Option<&SocksProxy> {
        self.socks.as_ref()
    }

    /// Whether TLS is expected on a port.
    pub(crate) fn is_tls_port(&self, port: u16) -> bool {
        self.tls_ports.contains(&port)
    }
}

/// Names are compared in lower case and without the dot that marks the root.
pub(super) fn normal_name(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

/// `*.example.com` fits every name below `example.com`; `*` fits all.
fn name_fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(suffix) if suffix.starts_with('.') => name.len() > suffix.len() && name.ends_with(suffix),
        _ => pattern == name,
    }
}

/// Checks rules as they come in.
///
/// # Errors
/// A sentence for the caller.
pub(crate) fn check_rules(rules: &EgressConfig) -> Result<(), String> {
    if rules.allow_out.len() + rules.deny_out.len() + rules.rules.len() > MAX_RULES {
        return Err(format!("at most {MAX_RULES} network rules are possible"));
    }
    if let Some(proxy) = &rules.egress_proxy {
        SocksProxy::parse(proxy).map_err(|problem| format!("egressProxy: {problem}"))?;
    }
    if rules.https_ports.iter().flatten().any(|port| *port == ENVD_PORT) {
        return Err(format!("httpsPorts: {ENVD_PORT} is the sandbox's own daemon"));
    }
    for entry in &rules.deny_out {
        entry
            .parse::<Cidr>()
            .map_err(|error| format!("denyOut: {error}; domains can only stand in allowOut"))?;
    }
    let mut names = 0;
    for entry in &rules.allow_out {
        if entry.parse::<Cidr>().is_err() {
            check_name(entry).map_err(|problem| format!("allowOut: {problem}"))?;
            names += 1;
        }
    }
    let denies_all = rules
        .deny_out
        .iter()
        .any(|entry| entry == ALL_TRAFFIC || entry.parse().is_ok_and(|range: Cidr| range.is_all()));
    if names > 0 && !denies_all {
        return Err(format!("allowOut names domains, so denyOut must contain {ALL_TRAFFIC}"));
    }
    for (domain, entries) in &rules.rules {
        check_name(domain).map_err(|problem| format!("rules: {problem}"))?;
        if normal_name(domain) == "*" {
            return Err("rules: \"*\" would give the headers to every host; name a domain".into());
        }
        for (name, value) in
            entries.iter().filter_map(|rule| rule.transform.as_ref()).flat_map(|t| &t.headers)
        {
            if http::HeaderName::try_from(name).is_err() || is_connection_header(name) {
                return Err(format!("rules: {name:?} is not a header that can be set"));
            }
            if http::HeaderValue::try_from(value.expose()).is_err() {
                return Err(format!("rules: the value of {name} is not a valid header value"));
            }
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = normal_name(name);
    let rest = plain.strip_prefix("*.").unwrap_or(&plain);
    let good = plain == "*"
        || (!rest.is_empty()
            && rest.len() <= 253
            && rest.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            }));
    if good { Ok(()) } else { Err(format!("{name:?} is neither a domain, nor an address, nor a range")) }
}

/// Headers that belong to a connection, not to a request.
pub(super) fn is_connection_header(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, address: &str) -> Target {
        Target { host: host.into(), port: 443, address: address.parse().ok() }
    }

    fn policy(allow: &[&str], deny: &[&str]) -> Policy {
        let parse =
            |entries: &[&str]| entries.iter().filter_map(|entry| entry.parse().ok()).collect::<Vec<Cidr>>();
        let deny = parse(deny);
        Policy {
            allow: parse(allow),
            allow_names: allow
                .iter()
                .filter(|e| e.parse::<Cidr>().is_err())
                .map(|e| normal_name(e))
                .collect(),
            deny_all: deny.iter().any(Cidr::is_all),
            deny,
            ..Policy::default()
        }
    }

    #[test]
    fn everything_is_allowed_without_rules() {
        assert!(policy(&[], &[]).allows(&target("example.com", "203.0.113.1")));
    }

    #[test]
    fn allowing_wins_over_denying() {
        let rules = policy(&["api.example.com", "*.files.example", "198.51.100.0/24"], &["0.0.0.0/0"]);
        assert!(rules.allows(&target("api.example.com", "203.0.113.1")));
        assert!(rules.allows(&target("a.files.example", "203.0.113.1")));
        assert!(rules.allows(&target("x.example", "198.51.100.7")));
        assert!(!rules.allows(&target("files.example", "203.0.113.1")));
        assert!(!rules.allows(&target("evil-api.example.com", "203.0.113.1")));
        assert!(!rules.allows(&target("x.example", "2001:db8::1")));
    }

    #[test]
    fn an_unknown_address_is_denied_as_soon_as_ranges_are() {
        assert!(policy(&[], &[]).allows(&target("x.example", "")));
        assert!(!policy(&[], &["198.51.100.0/24"]).allows(&target("x.example", "")));
    }

    #[test]
    fn rules_are_checked() {
        let rules = |allow: &[&str], deny: &[&str]| EgressConfig {
            allow_out: allow.iter().map(|&entry| entry.to_owned()).collect(),
            deny_out: deny.iter().map(|&entry| entry.to_owned()).collect(),
            ..EgressConfig::default()
        };
        assert!(check_rules(&rules(&["1.1.1.1"], &["8.8.8.8"])).is_ok());
        assert!(check_rules(&rules(&["a.example"], &["0.0.0.0/0"])).is_ok());
        assert!(check_rules(&rules(&["a.example"], &[])).unwrap_err().contains("0.0.0.0/0"));
        assert!(check_rules(&rules(&[], &["a.example"])).is_err());
        assert!(check_rules(&rules(&["a b"], &["0.0.0.0/0"])).is_err());
    }
}
