//! What a server is started with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pvm_e2b_wire::launch::LaunchLimits;

use crate::auth::{Authenticate, StaticKeys};
use crate::clock::{Clock, SystemClock};
use crate::egress::EgressSettings;

/// Where the server listens unless told otherwise: this machine only.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8788);
/// Longest time a sandbox may be given in one go: what E2B's larger plan allows.
pub const MAX_TIMEOUT: Duration = Duration::from_hours(24);
/// Limits of a sandbox whose template names none.
pub const DEFAULT_LIMITS: LaunchLimits =
    LaunchLimits { cpu_count: 2, memory_mb: 2048, disk_mb: 10 * 1024, pids: 2048 };

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the one port that serves everything; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of this server's sandboxes and snapshots. One server at a time uses it.
    pub state_dir: PathBuf,
    /// Folder of the root file systems, shared by all servers of this machine's user.
    pub template_dir: PathBuf,
    /// Domain (with a port, if it needs one) of the host names `<port>-<sandbox id>.<domain>`. Absent means
    /// `localhost` at the port listened on: browsers take every name below it for this machine.
    pub domain: Option<String>,
    /// Who may call.
    pub authenticate: Arc<dyn Authenticate>,
    /// Limits of every sandbox.
    pub limits: LaunchLimits,
    /// Longest timeout that is accepted.
    pub max_timeout: Duration,
    /// What sandboxes may reach.
    pub egress: EgressSettings,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// The defaults for a state folder, with no key valid yet.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            state_dir: state_dir.into(),
            template_dir: default_template_dir(),
            domain: None,
            authenticate: Arc::new(StaticKeys::default()),
            limits: DEFAULT_LIMITS,
            max_timeout: MAX_TIMEOUT,
            egress: EgressSettings::from_environment(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// `$XDG_CACHE_HOME/pvm/templates`, else `~/.cache/pvm/templates`: outside every checkout and state folder, so that
/// a root file system is built once per machine.
pub fn default_template_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("pvm/templates")
}
