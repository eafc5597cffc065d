//! The daemon's plain HTTP endpoints: `/init`, `/metrics`, `/files`, `/files/compose`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::proto_json::null_default;
use crate::secret::Secret;

/// Body of `POST /init`, sent by whoever made the sandbox. Every field may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitRequest {
    /// Environment of every process.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Token to ask for from now on; may be set once and repeated, not changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    /// Time of the request; older ones than the last are ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// User of processes that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Working directory of processes that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// A cloud detail; ignored.
    #[serde(rename = "hyperloopIP", skip_serializing_if = "Option::is_none")]
    pub hyperloop_ip: Option<String>,
    /// A cloud detail; ignored.
    #[serde(rename = "lifecycleID", skip_serializing_if = "Option::is_none")]
    pub lifecycle_id: Option<String>,
    /// CA certificates (PEM) to trust inside, in addition to the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

/// Answer of `GET /metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EnvdMetrics {
    /// Unix seconds.
    pub ts: i64,
    /// CPUs.
    pub cpu_count: u32,
    /// Use in percent of all of them.
    pub cpu_used_pct: f64,
    /// Bytes of memory.
    pub mem_total: u64,
    /// Bytes in use.
    pub mem_used: u64,
    /// Bytes of page cache.
    pub mem_cache: u64,
    /// MiB of memory.
    pub mem_total_mib: u64,
    /// MiB in use.
    pub mem_used_mib: u64,
    /// Bytes of disk in use.
    pub disk_used: u64,
    /// Bytes of disk.
    pub disk_total: u64,
}

/// One row of the answer of `POST /files`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    /// Absolute path.
    pub path: String,
    /// Last component of it.
    pub name: String,
    /// `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Metadata stored with it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Body of `POST /files/compose`: joins files into one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRequest {
    /// What to join, in order; they are removed afterwards.
    pub source_paths: Vec<String>,
    /// The result.
    pub destination: String,
    /// Whose paths and files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}
