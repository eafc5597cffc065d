//! Network configuration of a sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::proto_json::null_default;
use crate::secret::Secret;

/// The CIDR that contains all traffic; `denyOut` must have it before a domain may stand in `allowOut`.
pub const ALL_TRAFFIC: &str = "0.0.0.0/0";

/// Network part of a create request and of a sandbox's details.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkConfig {
    /// Whether the sandbox's ports answer without a traffic token; absent means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    /// Host header that services inside see instead of the outer one; `${PORT}` is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_request_host: Option<String>,
    /// What may go out.
    #[serde(flatten)]
    pub egress: EgressConfig,
}

/// What stands in place of a secret that an answer does not tell.
pub const REDACTED: &str = "***";

impl NetworkConfig {
    /// The same to be shown: with the names of headers and not their values, and without a proxy's password.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        let redacted = || Secret::new(REDACTED.to_owned());
        if let Some(proxy) = &mut shown.egress.egress_proxy {
            proxy.password = proxy.password.as_ref().map(|_| redacted());
        }
        let transforms = shown.egress.rules.values_mut().flatten().filter_map(|rule| rule.transform.as_mut());
        for value in transforms.flat_map(|transform| transform.headers.values_mut()) {
            *value = redacted();
        }
        shown
    }
}

/// Rules for traffic that leaves the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressConfig {
    /// Allowed CIDRs, addresses and domains (`*.example.com` for subdomains). Wins over `deny_out`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<String>,
    /// Denied CIDRs and addresses; no domains.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<String>,
    /// A SOCKS5 proxy that all egress goes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
    /// Header rules by domain. A domain named here is not thereby allowed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, Vec<NetworkRule>>,
    /// Resolvers for names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
    /// Ports on which TLS is expected, besides 443.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_ports: Option<Vec<u16>>,
}

/// Body of `PUT /sandboxes/{id}/network`: replaces all egress rules, what is left out is cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUpdate {
    /// The new rules.
    #[serde(flatten)]
    pub egress: EgressConfig,
    /// `false` is the same as denying all traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
}

/// An outer proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressProxy {
    /// `host:port`.
    pub address: String,
    /// At most 255 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// At most 255 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// A rule for requests to one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRule {
    /// What to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<NetworkTransform>,
}

/// Changes to a request on its way out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkTransform {
    /// Headers set or replaced. Their values never enter the sandbox.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_names_and_no_secrets() {
        let text = r#"{"maskRequestHost":"x","allowOut":["a.example"],"egressProxy":{"address":"p:1","username":"u","password":"s3cret"},"rules":{"a.example":[{"transform":{"headers":{"authorization":"s3cret"}}}]}}"#;
        let config: NetworkConfig = serde_json::from_str(text).unwrap();
        let shown = serde_json::to_string(&config.without_secrets()).unwrap();
        assert_eq!(shown, text.replace("s3cret", REDACTED));
    }
}
