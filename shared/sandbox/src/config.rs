//! Which E2B to talk to.

use pvm_e2b_wire::secret::Secret;

/// Addresses and key of an E2B.
#[derive(Debug, Clone)]
pub struct VmClientConfig {
    /// Control plane, such as `https://api.e2b.app` or `http://127.0.0.1:8788`; without a slash at the end.
    pub api_url: String,
    /// One address for all sandboxes, routed by header; `None` addresses each by its host name below `domain`.
    pub sandbox_url: Option<String>,
    /// Domain of the sandboxes' host names, such as `e2b.app` or `localhost:8788`.
    pub domain: String,
    /// `http` or `https`, for host names below `domain`.
    pub scheme: String,
    /// The key, in E2B's form.
    pub api_key: Secret,
    /// Names our deployment in the metadata of its sandboxes. No other sandbox is ever listed or touched.
    pub deployment_id: String,
    /// Keep the run journal by script even where envd keeps one: for tests of the script.
    pub script_journal: bool,
}

impl VmClientConfig {
    /// E2B's cloud, or a self-hosted one with its own domain.
    pub fn cloud(domain: &str, api_key: Secret, deployment_id: &str) -> Self {
        Self {
            api_url: format!("https://api.{domain}"),
            sandbox_url: None,
            domain: domain.to_owned(),
            scheme: "https".to_owned(),
            api_key,
            deployment_id: deployment_id.to_owned(),
            script_journal: false,
        }
    }

    /// A server on this machine, reached by one address.
    pub fn local(address: std::net::SocketAddr, api_key: Secret, deployment_id: &str) -> Self {
        Self {
            api_url: format!("http://{address}"),
            sandbox_url: Some(format!("http://{address}")),
            domain: format!("localhost:{}", address.port()),
            scheme: "http".to_owned(),
            api_key,
            deployment_id: deployment_id.to_owned(),
            script_journal: false,
        }
    }
}
