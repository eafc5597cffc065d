//! Bodies of the REST control plane.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::errors::{ApiError, ProxyError};
use crate::network::NetworkConfig;
use crate::proto_json::null_default;
use crate::secret::Secret;

/// Seconds a sandbox lives when the v1 create request names no timeout.
pub const DEFAULT_TIMEOUT_V1_SECS: i64 = 15;
/// Seconds a sandbox lives when the v2 create request names no timeout.
pub const DEFAULT_TIMEOUT_V2_SECS: i64 = 300;

/// Body of `POST /sandboxes` (v1) and `POST /v2/sandboxes`; v2 is always secure and has no `secure`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSandbox {
    /// Template id or alias, with an optional namespace (`ns/alias`) and tag (`alias:tag`).
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds until it ends; more than 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Whether its end is a pause rather than a kill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_pause: Option<bool>,
    /// Whether that pause keeps memory (default) or the file system only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_pause_memory: Option<bool>,
    /// Whether traffic wakes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<AutoResume>,
    /// v1 only: whether the daemon asks for an access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
    /// `false` denies all egress. The only field in snake case on the wire.
    #[serde(rename = "allow_internet_access", default, skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    /// Network rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    /// Labels, for lists.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Environment of every process.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// MCP servers to start in the sandbox; a cloud feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<serde_json::Value>,
    /// Identity tokens; a cloud feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam: Option<serde_json::Value>,
    /// Volumes; a cloud feature.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
}

/// Whether traffic wakes a paused sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoResume {
    /// Yes or no.
    #[serde(deserialize_with = "null_default")]
    pub enabled: bool,
}

/// A named volume at a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// Where.
    pub path: String,
}

/// Answer of create, connect and resume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Template it was made from.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Its id: `[a-z0-9]+`.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// Always there, for old clients.
    #[serde(rename = "clientID", default)]
    pub client_id: String,
    /// Protocol version of its daemon; clients switch features by it.
    pub envd_version: String,
    /// The template's alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Token that the daemon asks for, when secure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<Secret>,
    /// Token that the ports ask for, when private.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_access_token: Option<Secret>,
    /// Domain of its host names; absent means the client's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// State of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// It runs.
    Running,
    /// It is frozen, or kept as files only.
    Paused,
}

/// What happens at a sandbox's timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It ends.
    Kill,
    /// It is paused.
    Pause,
}

/// How a sandbox ends and wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// What happens at its timeout.
    pub on_timeout: OnTimeout,
}

/// One row of a list of sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSandbox {
    /// Template it was made from.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// The template's alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Its id.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// Always there, for old clients.
    #[serde(rename = "clientID", default)]
    pub client_id: String,
    /// When it was made, or last resumed.
    pub started_at: Timestamp,
    /// When it ends, or ended by being paused.
    pub end_at: Timestamp,
    /// CPUs it may use.
    pub cpu_count: u32,
    /// Memory it may use, in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    /// Disk it may use, in MiB.
    #[serde(rename = "diskSizeMB", default)]
    pub disk_size_mb: u64,
    /// Labels.
    #[serde(default, deserialize_with = "null_default")]
    pub metadata: BTreeMap<String, String>,
    /// Running or paused.
    pub state: SandboxState,
    /// Protocol version of its daemon.
    pub envd_version: String,
    /// Volumes.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
}

/// Answer of `GET /sandboxes/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    /// What a list shows of it.
    #[serde(flatten)]
    pub listed: ListedSandbox,
    /// Token that the daemon asks for, when secure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<Secret>,
    /// Whether egress is allowed at all; null when rules decide.
    #[serde(default)]
    pub allow_internet_access: Option<bool>,
    /// Domain of its host names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Network rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    /// How it ends and wakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// What a paused sandbox's pause has kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_mode: Option<PauseMode>,
    /// When one of its ports was last used from outside: an extension, which other servers do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_traffic_at: Option<Timestamp>,
}

/// What a pause has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Files and memory.
    Full,
    /// Files only; resuming starts the sandbox anew.
    Filesystem,
}

/// Use of resources at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxMetric {
    /// When it was taken.
    pub timestamp: Timestamp,
    /// The same in unix seconds.
    pub timestamp_unix: i64,
    /// CPUs it may use.
    pub cpu_count: u32,
    /// Use in percent of all of them (0 to 100).
    pub cpu_used_pct: f64,
    /// Memory in use, in bytes.
    pub mem_used: u64,
    /// Memory it may use, in bytes.
    pub mem_total: u64,
    /// Page cache, in bytes.
    #[serde(default)]
    pub mem_cache: u64,
    /// Disk in use, in bytes.
    pub disk_used: u64,
    /// Disk it may use, in bytes.
    pub disk_total: u64,
}

/// Answer of `GET /sandboxes/metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxesMetrics {
    /// Latest metric by sandbox id; unknown ids are left out.
    pub sandboxes: BTreeMap<String, SandboxMetric>,
}

/// Body of `POST /sandboxes/{id}/connect`; v1 requires `timeout`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectSandbox {
    /// Seconds from now. A running sandbox is only ever extended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Whether to resume with memory (default) or boot from the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// Body of `POST /sandboxes/{id}/resume` (deprecated).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResumeSandbox {
    /// Seconds from now; 15 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Whether its end is a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_pause: Option<bool>,
    /// Whether to resume with memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// Body of `POST /sandboxes/{id}/timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetTimeout {
    /// Seconds from now, 0 or more; may shorten.
    pub timeout: i64,
    /// Whether an end that is later already stays.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub extend_only: bool,
}

/// Body of `POST /sandboxes/{id}/refreshes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshSandbox {
    /// Seconds from now, 0 to 3600; only extends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<i64>,
}

/// Body of `POST /sandboxes/{id}/pause`; may be absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PauseSandbox {
    /// Whether to keep memory (default) or the files only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
    /// Whether to refuse when the daemon does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_healthy_guest: Option<bool>,
}

/// Body of `POST /sandboxes/{id}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewSnapshot {
    /// A name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether to keep memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
}

/// A snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id, usable as a template id.
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
    /// Its names.
    #[serde(default, deserialize_with = "null_default")]
    pub names: Vec<String>,
}

/// Body of `POST /sandboxes/{id}/fork`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForkSandbox {
    /// Seconds the forks live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// How many, 1 to 100; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// One row of a fork's answer: one of both is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkResult {
    /// The new sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// Answer of `GET /v2/sandboxes/{id}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLogs {
    /// Lines in the order asked for.
    pub logs: Vec<SandboxLog>,
}

/// Answer of `GET /sandboxes/{id}/logs` (v1): the same lines twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxLogsV1 {
    /// Lines as text.
    pub logs: Vec<SandboxLogLine>,
    /// Lines taken apart.
    pub log_entries: Vec<SandboxLog>,
}

/// One line of a sandbox's log as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLogLine {
    /// When.
    pub timestamp: Timestamp,
    /// What.
    pub line: String,
}

/// One line of a sandbox's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLog {
    /// When.
    pub timestamp: Timestamp,
    /// What.
    pub message: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// Further fields.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

/// Answer of `GET /templates/aliases/{alias}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateAlias {
    /// The template behind it.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Whether others may use it.
    pub public: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_body_the_python_sdk_sends_is_read() {
        let body = json!({"templateID": "base", "timeout": 120, "metadata": {"a": "b"}, "envVars": {"X": "1"},
            "allow_internet_access": false, "autoPause": true, "autoResume": {"enabled": true},
            "network": {"allowOut": ["1.1.1.1"], "rules": {"a.example": [{"transform": {"headers": {"x": "y"}}}]}},
            "somethingNew": 1});
        let request: NewSandbox = serde_json::from_value(body).unwrap();
        assert_eq!(request.template_id, "base");
        assert_eq!(request.timeout, Some(120));
        assert_eq!(request.allow_internet_access, Some(false));
        let network = request.network.unwrap();
        assert_eq!(network.egress.allow_out, ["1.1.1.1"]);
        let rule = &network.egress.rules["a.example"][0];
        assert_eq!(rule.transform.as_ref().unwrap().headers["x"].expose(), "y");
    }

    #[test]
    fn fields_a_client_did_not_set_are_left_out() {
        let request = NewSandbox { template_id: "base".into(), timeout: Some(5), ..NewSandbox::default() };
        assert_eq!(serde_json::to_value(request).unwrap(), json!({"templateID": "base", "timeout": 5}));
    }

    #[test]
    fn details_are_one_flat_object() {
        let detail = SandboxDetail {
            listed: ListedSandbox {
                template_id: "t".into(),
                alias: Some("base".into()),
                sandbox_id: "i1".into(),
                client_id: "c".into(),
                started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
                end_at: "2026-01-01T00:05:00Z".parse().unwrap(),
                cpu_count: 2,
                memory_mb: 2048,
                disk_size_mb: 10240,
                metadata: BTreeMap::new(),
                state: SandboxState::Running,
                envd_version: "0.6.13".into(),
                volume_mounts: Vec::new(),
            },
            envd_access_token: Some(Secret::new("tok")),
            allow_internet_access: None,
            domain: None,
            network: None,
            lifecycle: Some(Lifecycle { auto_resume: false, on_timeout: OnTimeout::Kill }),
            pause_mode: None,
            last_traffic_at: None,
        };
        let value = serde_json::to_value(&detail).unwrap();
        assert_eq!(
            value,
            json!({"templateID": "t", "alias": "base", "sandboxID": "i1", "clientID": "c",
                "startedAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-01T00:05:00Z", "cpuCount": 2,
                "memoryMB": 2048, "diskSizeMB": 10240, "state": "running", "envdVersion": "0.6.13",
                "metadata": {}, "allowInternetAccess": null, "envdAccessToken": "tok", "lifecycle": {"autoResume": false, "onTimeout": "kill"}})
        );
        assert_eq!(serde_json::from_value::<SandboxDetail>(value).unwrap(), detail);
        assert!(!format!("{detail:?}").contains("tok\""));
    }
}
