//! `get_system_info`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ToolVersion;

/// Arguments of `get_system_info`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemInfoArgs {
    /// Most processes to return, the largest by memory first, 0 to 100. Default: 15.
    pub processes: Option<usize>,
}

/// A filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskInfo {
    /// Where it is mounted.
    pub mount: String,
    /// Size in MiB.
    pub total_mib: u64,
    /// Free space in MiB.
    pub free_mib: u64,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: u64,
    /// Whose it is.
    pub user: String,
    /// Share of one CPU in percent since it was started, rounded.
    pub cpu_percent: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Its command line, cut where it is long.
    pub command: String,
}

/// A port that something listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortInfo {
    /// The port.
    pub port: u16,
    /// The address, such as 0.0.0.0 or 127.0.0.1.
    pub address: String,
}

/// What `get_system_info` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SystemInfoOutput {
    /// Operating system, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor architecture, such as x86_64.
    pub architecture: String,
    /// Host name.
    pub hostname: String,
    /// Account that commands run as by default.
    pub user: String,
    /// Number of processors.
    pub cpus: u64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: Vec<String>,
    /// Memory in MiB.
    pub memory_total_mib: u64,
    /// Memory that programs can still get, in MiB.
    pub memory_available_mib: u64,
    /// Seconds since the VM was started.
    pub uptime_secs: u64,
    /// Filesystems.
    pub disks: Vec<DiskInfo>,
    /// Processes, the largest by memory first.
    pub processes: Vec<ProcessInfo>,
    /// Number of processes in all.
    pub process_count: u64,
    /// Ports that something listens on.
    pub ports: Vec<PortInfo>,
    /// Installed languages and tools with their versions.
    pub toolchains: Vec<ToolVersion>,
}
