//! Services: long-running programs of a project that are brought back after every VM loss.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fair_use::Counted;
use crate::ids::{OwnerId, ProjectId, ServiceId};

/// A service's state as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    /// Started, not ready yet.
    Starting,
    /// Ready.
    Running,
    /// It ended by itself or never got ready; `reason` says more.
    Failed,
    /// Stopped on request.
    Stopped,
}

/// How to tell that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// Its port accepts connections (the default where a port is given).
    Port,
    /// A GET of this path on its port answers below 500.
    HttpPath(String),
    /// Its output has a line that contains this text.
    LogLine(String),
}

/// When a service is started again after it ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Never.
    No,
    /// When its exit status was not zero.
    #[default]
    OnFailure,
    /// Whatever its exit status was.
    Always,
}

/// A service of a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The project.
    pub project_id: ProjectId,
    /// Its id.
    pub service_id: ServiceId,
    /// Its name, unique in the project: `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// The shell line that runs it in the foreground.
    pub command: String,
    /// The port it listens on, if any.
    pub port: Option<u16>,
    /// Where it runs.
    pub working_dir: String,
    /// As whom it runs: `user` or `root`.
    pub user: String,
    /// Its own environment.
    pub env: BTreeMap<String, String>,
    /// How to tell that it is ready.
    pub ready: Option<Ready>,
    /// Seconds it may take to get ready.
    pub ready_timeout_secs: u64,
    /// When it is started again.
    pub restart: Restart,
    /// Names of services that must be ready before it starts.
    pub depends_on: Vec<String>,
    /// Those services with the starts that it waits for: name and id in the VM's journal, by start.
    #[serde(default)]
    pub needs: Vec<(String, String)>,
    /// Its state.
    pub status: ServiceStatus,
    /// Why it failed.
    pub reason: Option<String>,
    /// Number of the current start; with the service's id it names the run in the VM's journal.
    pub attempt: u32,
    /// Starts in a row that failed; the backoff grows with it.
    pub failures: u32,
    /// The epoch of the VM that runs it.
    pub epoch: Option<u64>,
    /// When the current start happened.
    pub started_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The project's owner, in whose name it is counted.
    #[serde(default)]
    pub owner: Option<OwnerId>,
    /// Whether it is counted.
    #[serde(default)]
    pub counted: Counted,
    /// Counts the changes of this record.
    pub version: u64,
}

impl Service {
    /// The id of the current start in the VM's run journal.
    pub fn journal_id(&self) -> String {
        format!("{}-{}", self.service_id, self.attempt)
    }
}
