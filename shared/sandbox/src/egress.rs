//! Header rules of the egress proxy, as E2B's wire has them.

use std::collections::BTreeMap;

use pvm_application::ports::HeaderRule;
use pvm_domain::secret::name_and_port;
use pvm_e2b_wire::network::{EgressConfig, NetworkRule, NetworkTransform};
use pvm_e2b_wire::secret::Secret;

/// Port on which every server expects TLS already.
const HTTPS: u16 = 443;

/// The rules of one VM. One host may have several headers.
pub(crate) fn config(rules: &[HeaderRule]) -> EgressConfig {
    let mut headers: BTreeMap<String, BTreeMap<String, Secret>> = BTreeMap::new();
    let mut ports = Vec::new();
    for rule in rules {
        let (name, port) = name_and_port(&rule.host);
        let value = Secret::new(rule.value.expose().to_owned());
        headers.entry(name.to_owned()).or_default().insert(rule.header.clone(), value);
        if port != HTTPS && !ports.contains(&port) {
            ports.push(port);
        }
    }
    let rule = |headers| vec![NetworkRule { transform: Some(NetworkTransform { headers }) }];
    EgressConfig {
        rules: headers.into_iter().map(|(host, headers)| (host, rule(headers))).collect(),
        https_ports: (!ports.is_empty()).then_some(ports),
        ..EgressConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvm_application::ports::SecretValue;

    #[test]
    fn headers_are_gathered_by_host_and_ports_named_once() {
        let rule = |host: &str, header: &str| HeaderRule {
            host: host.to_owned(),
            header: header.to_owned(),
            value: SecretValue::new("v"),
        };
        let rules = [rule("a.example", "x-one"), rule("a.example", "x-two"), rule("b.example:8443", "x-one")];
        let config = config(&rules);
        assert_eq!(config.rules.keys().collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert_eq!(config.rules["a.example"][0].transform.as_ref().unwrap().headers.len(), 2);
        assert_eq!(config.https_ports, Some(vec![8443]));
        assert_eq!(super::config(&[]), EgressConfig::default());
    }
}
