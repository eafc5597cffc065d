//! Sandboxes and what can be done with them. The control plane and the proxy are both callers of this.

mod adopt;
mod build;
mod create;
mod error;
mod expiry;
mod fork;
mod kill;
mod layers;
mod metrics;
mod network;
mod pause;
mod quota;
mod registry;
mod runs;
mod sandbox;
mod start;
mod turns;
mod uploads;

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

pub(crate) use build::{Build, BuildLine, BuildRequest, Step};
pub(crate) use create::{CreateRequest, End, limits_with, new_id};
pub(crate) use error::EngineError;
pub use expiry::Shutdown;
pub(crate) use pause::Connected;
pub(crate) use sandbox::{Runtime, Sandbox};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::egress::Egress;
use crate::isolation::cgroup::Groups;
use crate::isolation::ids::IdRanges;
use crate::isolation::spawner::Spawner;
use crate::store::Layout;
use crate::templates::Catalog;

/// Everything the server holds.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) templates: Catalog,
    pub(crate) egress: Arc<Egress>,
    registry: registry::Registry,
    /// Taken at shutdown, so that its threads end.
    spawner: Mutex<Option<Spawner>>,
    groups: Groups,
    /// The machine's boot id.
    host_boot_id: String,
    ranges: Mutex<IdRanges>,
    /// Ends the background tasks.
    pub(crate) stopping: CancellationToken,
    /// Everything that runs in the background, waited for at shutdown.
    pub(crate) tasks: TaskTracker,
    /// Set at shutdown: from then on an ended process is no surprise.
    closing: AtomicBool,
    /// Taken while a create request with an idempotency key is served, by owner and key.
    keyed: turns::Turns<(String, String)>,
    /// Layers that no record names yet.
    claims: Arc<layers::Claims>,
    /// Template builds since the server started.
    pub(crate) builds: build::Builds,
    /// Permissions to send files for builds.
    pub(crate) uploads: uploads::Uploads,
    /// Where clients reach this server, once it listens.
    address: OnceLock<SocketAddr>,
}

/// Parts an engine is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) templates: Catalog,
    pub(crate) egress: Egress,
    pub(crate) spawner: Spawner,
    pub(crate) groups: Groups,
    pub(crate) host_boot_id: String,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            config: parts.config,
            layout: parts.layout,
            templates: parts.templates,
            egress: Arc::new(parts.egress),
            registry: registry::Registry::default(),
            spawner: Mutex::new(Some(parts.spawner)),
            groups: parts.groups,
            host_boot_id: parts.host_boot_id,
            ranges: Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            closing: AtomicBool::new(false),
            keyed: turns::Turns::default(),
            claims: Arc::default(),
            builds: build::Builds::default(),
            uploads: uploads::Uploads::default(),
            address: OnceLock::new(),
        })
    }

    /// Notes the address that the server listens on.
    pub(crate) fn listens_on(&self, address: SocketAddr) {
        self.address.get_or_init(|| address);
    }

    /// Domain of the host names of ports, with a port where one is needed.
    pub(crate) fn domain(&self) -> String {
        self.config.domain.clone().unwrap_or_else(|| match self.address.get() {
            Some(address) => format!("localhost:{}", address.port()),
            None => "localhost".into(),
        })
    }

    /// Now, in Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.config.clock.now_ms()
    }
}
