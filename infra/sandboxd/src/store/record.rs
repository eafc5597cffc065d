//! What is known about a sandbox, as stored in its folder. Written before every step that something outside
//! depends on, so that a server that was killed in between knows what to finish or to undo.

use std::collections::BTreeMap;

use pvm_e2b_wire::launch::LaunchLimits;
use pvm_e2b_wire::network::NetworkConfig;
use pvm_e2b_wire::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::isolation::cgroup::Group;
use crate::isolation::ids::IdRange;
use crate::templates::{Origin, StartCommand};

/// What a paused sandbox has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PauseKind {
    /// Everything: its processes stand still.
    Memory,
    /// Its files; it starts anew when resumed.
    Filesystem,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Being made; after a crash nothing of it is kept.
    Creating,
    /// Running.
    Running,
    /// Paused.
    Paused(PauseKind),
    /// Being removed; after a crash removing goes on.
    Killing,
}

/// PID 1 of a sandbox, so that a restarted server can find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedProcess {
    /// Its id on the host.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot: the id may be another's by now.
    pub(crate) start_ticks: u64,
}

/// One sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) owner: String,
    /// Template id as answered to clients.
    pub(crate) template_id: String,
    /// The template's name, as listed.
    pub(crate) alias: Option<String>,
    /// What its root is made of; independent of the template's own record, which may be deleted.
    pub(crate) origin: Origin,
    /// What its template starts in it, at every start from its files.
    #[serde(default)]
    pub(crate) start: Option<StartCommand>,
    pub(crate) phase: Phase,
    /// Unix milliseconds of the start or the last resume.
    pub(crate) started_at_ms: u64,
    /// Unix milliseconds at which its time is over.
    pub(crate) end_at_ms: u64,
    /// Whether it is then paused, and how, instead of killed.
    pub(crate) auto_pause: Option<PauseKind>,
    /// Whether traffic resumes it.
    pub(crate) auto_resume: bool,
    /// Timeout of its create request in milliseconds, used when traffic resumes it.
    pub(crate) timeout_ms: u64,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env_vars: BTreeMap<String, String>,
    pub(crate) envd_token: Option<Secret>,
    pub(crate) traffic_token: Option<Secret>,
    /// By port: links made up to this time (unix milliseconds) are void.
    #[serde(default)]
    pub(crate) links_void_up_to_ms: BTreeMap<u16, u64>,
    pub(crate) network: Option<NetworkConfig>,
    pub(crate) allow_internet_access: Option<bool>,
    pub(crate) limits: LaunchLimits,
    pub(crate) range: IdRange,
    /// The machine's boot id when it was started last.
    pub(crate) host_boot_id: String,
    pub(crate) process: Option<RecordedProcess>,
    pub(crate) group: Option<Group>,
    /// The certificate authority that only this sandbox trusts, once a header rule needed one: PEM certificate
    /// and key.
    #[serde(default)]
    pub(crate) authority: Option<Authority>,
    /// The caller's name for the request that made it.
    #[serde(default)]
    pub(crate) idempotency_key: Option<String>,
    /// Digest of that request, when it had such a name.
    #[serde(default)]
    pub(crate) request_digest: Option<String>,
}

/// A certificate authority of one sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Authority {
    /// PEM.
    pub(crate) certificate: String,
    /// PEM; never enters the sandbox.
    pub(crate) key: Secret,
}
