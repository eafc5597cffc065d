//! The provider of VMs as the settings name it.

use pvm_e2b_wire::secret::Secret;
use pvm_sandbox::VmClientConfig;

use crate::settings::Settings;

/// E2B's own domain.
const E2B_DOMAIN: &str = "e2b.app";

/// E2B's cloud, or the server that `E2B_API_URL`, `E2B_SANDBOX_URL` and `E2B_DOMAIN` name; `key` is a key of it.
pub fn vm_provider(settings: &Settings, key: Secret) -> VmClientConfig {
    let url = |url: &String| url.trim_end_matches('/').to_owned();
    let domain = settings.e2b_domain.as_deref().unwrap_or(E2B_DOMAIN);
    let mut config = VmClientConfig::cloud(domain, key, &settings.deployment_id);
    if let Some(api_url) = &settings.e2b_api_url {
        config.api_url = url(api_url);
    }
    config.sandbox_url = settings.e2b_sandbox_url.as_ref().map(url);
    // A server of one's own without TLS: ports of its sandboxes have none either.
    if config.sandbox_url.as_ref().is_some_and(|url| url.starts_with("http://")) {
        "http".clone_into(&mut config.scheme);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(variables: &[(&str, &str)]) -> VmClientConfig {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        vm_provider(&Settings::from_lookup(find).unwrap(), Secret::new("key"))
    }

    #[test]
    fn without_more_settings_it_is_e2bs_cloud() {
        let cloud = provider(&[]);
        assert_eq!((cloud.api_url.as_str(), cloud.scheme.as_str()), ("https://api.e2b.app", "https"));
        assert_eq!(cloud.sandbox_url, None);
    }

    #[test]
    fn a_server_of_ones_own_is_reached_as_it_is_named() {
        let own = provider(&[
            ("E2B_DOMAIN", "vm.example.org"),
            ("E2B_API_URL", "http://10.0.0.5:8788/"),
            ("E2B_SANDBOX_URL", "http://10.0.0.5:8788/"),
        ]);
        assert_eq!(own.api_url, "http://10.0.0.5:8788");
        assert_eq!(own.sandbox_url.as_deref(), Some("http://10.0.0.5:8788"));
        assert_eq!((own.domain.as_str(), own.scheme.as_str()), ("vm.example.org", "http"));
    }
}
