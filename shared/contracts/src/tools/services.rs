//! `start_service`, `stop_service`, `list_services`, `service_logs`.

use pvm_domain::service::{Restart, ServiceStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunAs;

/// Arguments of `start_service`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartServiceArgs {
    /// Name of the service, unique in the project: 1 to 64 letters, digits, `.`, `_` or `-`.
    #[serde(alias = "service_name")]
    pub name: String,
    /// Shell line that runs it in the foreground, such as `python app.py`. Without `&`, nohup or screen.
    pub command: String,
    /// Port it listens on. The service is running once the port accepts connections, and it gets a URL. It should
    /// listen on 0.0.0.0 or 127.0.0.1.
    pub port: Option<u16>,
    /// Directory to run in: absolute, or relative to /workspace. Default: /workspace.
    pub working_dir: Option<String>,
    /// Environment variables for it, each as `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Path that answers below 500 on its port once it is ready, such as /healthz. Default: the port accepting
    /// connections is enough.
    pub ready_http_path: Option<String>,
    /// Text that a line of its output has once it is ready.
    pub ready_log_line: Option<String>,
    /// When it is started again after it ended: `no`, `on_failure` (the default) or `always`.
    #[serde(default)]
    pub restart: Restart,
    /// Account to run as: `user` (the default) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// Arguments of `stop_service`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopServiceArgs {
    /// Name or service_id of the service.
    #[serde(alias = "service_name", alias = "service_id")]
    pub name: String,
}

/// Arguments of `list_services`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListServicesArgs {}

/// Arguments of `service_logs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceLogsArgs {
    /// Name or service_id of the service.
    #[serde(alias = "service_name", alias = "service_id")]
    pub name: String,
    /// Lines from the end to return, 1 to 2000. Default: 100.
    pub lines: Option<usize>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceOutput {
    /// Its id.
    pub service_id: String,
    /// Its name.
    pub name: String,
    /// `starting`, `running`, `failed` or `stopped`.
    pub status: ServiceStatus,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Shell line that runs it.
    pub command: String,
    /// Port it listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// URL that reaches it from outside the VM. Inside the VM it is `http://localhost:<port>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The end of its output, where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// All services of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListServicesOutput {
    /// The services in order of name.
    pub services: Vec<ServiceOutput>,
}

/// Output of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceLogsOutput {
    /// The service's name.
    pub name: String,
    /// Its status.
    pub status: ServiceStatus,
    /// The last lines of standard output and standard error.
    pub log: String,
    /// Whether there is more before them.
    pub truncated: bool,
}
