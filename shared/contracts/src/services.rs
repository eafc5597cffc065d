//! Services on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pvm_domain::ids::ServiceId;
use pvm_domain::service::{self, Ready, Restart, ServiceStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/projects/{project_id}/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartService {
    /// Its name, unique in the project: 1 to 64 letters, digits, `_`, `.` or `-`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub name: String,
    /// The shell line that runs it in the foreground.
    #[schemars(length(min = 1))]
    pub command: String,
    /// The port it listens on, if any.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Where it runs; relative paths are taken from `/workspace`.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// As whom it runs: `user` (default) or `root`.
    #[serde(default)]
    pub user: Option<String>,
    /// Its own environment, besides the project's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How to tell that it is ready; absent means that its port answers, if it has one.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// Seconds it may take to get ready, 1 to 600; absent means 60.
    #[serde(default)]
    #[schemars(range(min = 1, max = 600))]
    pub ready_timeout_secs: Option<u64>,
    /// When it is started again after it ended by itself; absent means `on_failure`.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// Names of services that must be ready before it starts.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Seconds that the answer waits for it to get ready, 0 to 20; absent means 12.
    #[serde(default)]
    #[schemars(range(max = 20))]
    pub wait_secs: Option<u64>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Its id.
    pub service_id: ServiceId,
    /// Its name.
    pub name: String,
    /// The shell line that runs it.
    pub command: String,
    /// Its state.
    pub status: ServiceStatus,
    /// Why it failed.
    pub reason: Option<String>,
    /// The port it listens on, if any.
    pub port: Option<u16>,
    /// Where its port is reached from outside; a private link that expires. `null` without a port, and while the VM is
    /// paused or away: `POST .../links` brings it back and makes one.
    pub url: Option<String>,
    /// Where it runs.
    pub working_dir: String,
    /// As whom it runs.
    pub user: String,
    /// Its own environment.
    pub env: BTreeMap<String, String>,
    /// How to tell that it is ready.
    pub ready: Option<Ready>,
    /// When it is started again.
    pub restart: Restart,
    /// Services that must be ready before it starts.
    pub depends_on: Vec<String>,
    /// When its current start happened.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub started_at: Option<Timestamp>,
    /// When it was made.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// Counts the changes of its record.
    pub version: u64,
}

impl Service {
    /// The service as users see it, with the address of its port.
    pub fn new(service: service::Service, url: Option<String>) -> Self {
        Self {
            service_id: service.service_id,
            name: service.name,
            command: service.command,
            status: service.status,
            reason: service.reason,
            port: service.port,
            url,
            working_dir: service.working_dir,
            user: service.user,
            env: service.env,
            ready: service.ready,
            restart: service.restart,
            depends_on: service.depends_on,
            started_at: service.started_at,
            created_at: service.created_at,
            version: service.version,
        }
    }
}

/// Answer of `GET /api/projects/{project_id}/services/{service_id}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceLogs {
    /// The service.
    pub service_id: ServiceId,
    /// Its state.
    pub status: ServiceStatus,
    /// Standard output of its current (or last) start: the newest part, or what comes after `stdout_offset`.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// The offset in bytes to ask standard output from next time.
    pub stdout_next: u64,
    /// The offset in bytes to ask standard error from next time.
    pub stderr_next: u64,
    /// Whether there was more before this.
    pub truncated: bool,
}

/// Body of `POST /api/projects/{project_id}/services/{service_id}/links`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLink {
    /// Seconds that the link is good, 60 to 2592000 (30 days); absent means a day.
    #[serde(default)]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub expires_in_secs: Option<u64>,
}

/// A link to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// Opens the service's port for whoever has it.
    pub url: String,
    /// When it stops working.
    #[schemars(schema_with = "crate::time::time")]
    pub expires_at: Timestamp,
}
