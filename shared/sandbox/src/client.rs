//! The client and its connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::access::Cache;
use crate::config::VmClientConfig;
use crate::script_scan::Hashes;

/// A connection is given up after this time; the server is near or it is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// Every request that does not say otherwise ends after this time.
pub(crate) const REQUEST: Duration = Duration::from_secs(30);

/// Talks to one E2B. Cheap to clone; clones share connections and access tokens.
#[derive(Debug, Clone)]
pub struct VmClient {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) http: reqwest::Client,
    pub(crate) config: VmClientConfig,
    pub(crate) access: Cache,
    pub(crate) hashes: Hashes,
}

impl VmClient {
    /// A client of the E2B that `config` names. Nothing is sent yet.
    ///
    /// # Errors
    /// The TLS set-up of this machine cannot be used.
    pub fn new(config: VmClientConfig) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_mins(1))
            .user_agent(concat!("project-vm/", env!("CARGO_PKG_VERSION")));
        if config.sandbox_url.as_deref().is_some_and(|url| url.starts_with("http://127.0.0.1")) {
            // A proxy of the host is for the outside.
            http = http.no_proxy();
        }
        let http = http.build().context("the HTTP client cannot be made")?;
        Ok(Self {
            inner: Arc::new(Inner { http, config, access: Cache::default(), hashes: Hashes::default() }),
        })
    }
}
