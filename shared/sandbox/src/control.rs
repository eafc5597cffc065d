//! The control plane: making, finding, waking and ending VMs.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use pvm_application::ports::{
    ConnectVm, CreateVm, EndVm, FindVm, HeaderRule, NewVm, SetEgress, VmError, VmInfo, VmTraits, VmUse,
};
use pvm_domain::limits;
use pvm_e2b_wire::control::{
    ApiError, AutoResume, ConnectSandbox, ListedSandbox, NewSandbox, PauseSandbox, Sandbox, SandboxDetail,
    SandboxState,
};
use pvm_e2b_wire::envd_http::EnvdMetrics;
use pvm_e2b_wire::list_query::ListQuery;
use pvm_e2b_wire::network::{NetworkConfig, NetworkUpdate};
use pvm_e2b_wire::{HEADER_API_KEY, HEADER_NEXT_TOKEN, link};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::client::{REQUEST, VmClient};
use crate::egress;

/// Metadata: which deployment a VM belongs to.
const DEPLOYMENT: &str = "pvm_deployment";
/// Metadata: which project a VM belongs to.
const PROJECT: &str = "pvm_project";
/// A link to a private port is good this long, in seconds.
const LINK_SECS: u64 = 86_400;
/// Template of a VM that asks for none: the full system, where it is built.
const TEMPLATE: &str = "base";

/// An answer that is not a success.
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    async fn of(response: Response) -> Self {
        let status = response.status();
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        let message = match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => error.message,
            Err(_) => String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned(),
        };
        Self { status, message, retry_after }
    }
}

impl From<Failure> for VmError {
    fn from(failure: Failure) -> Self {
        let wait = failure.retry_after.unwrap_or(Duration::from_secs(1));
        match failure.status.as_u16() {
            429 | 503 => Self::Busy { retry_after: wait },
            status if status >= 500 => Self::Unavailable(anyhow::anyhow!("{status}: {}", failure.message)),
            401 | 403 => Self::Refused(format!("The E2B key was refused: {}", failure.message)),
            _ => Self::Refused(failure.message),
        }
    }
}

pub(crate) fn unreachable(error: reqwest::Error) -> VmError {
    VmError::Unavailable(error.without_url().into())
}

impl VmClient {
    fn api(&self, method: Method, path: &str) -> RequestBuilder {
        let config = &self.inner.config;
        let request = self.inner.http.request(method, format!("{}{path}", config.api_url)).timeout(REQUEST);
        request.header(HEADER_API_KEY, config.api_key.expose())
    }

    async fn call(&self, request: RequestBuilder) -> Result<Result<Response, Failure>, VmError> {
        let response = request.send().await.map_err(unreachable)?;
        Ok(if response.status().is_success() { Ok(response) } else { Err(Failure::of(response).await) })
    }

    /// The sandbox's facts; `None` where the server is sure that there is none.
    pub(crate) async fn detail(&self, vm_id: &str) -> Result<Option<SandboxDetail>, VmError> {
        match self.call(self.api(Method::GET, &format!("/sandboxes/{vm_id}"))).await? {
            Ok(response) => read(response).await.map(Some),
            Err(failure) if failure.status == StatusCode::NOT_FOUND => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Resumes the sandbox if it is paused, gives it at least this long, and learns its tokens.
    pub(crate) async fn connect(&self, vm_id: &str, timeout_secs: u64) -> Result<Sandbox, VmError> {
        let body = ConnectSandbox { timeout: i64::try_from(timeout_secs).ok(), memory: None };
        let request = self.api(Method::POST, &format!("/sandboxes/{vm_id}/connect")).json(&body);
        match self.call(request).await? {
            Ok(response) => {
                let sandbox: Sandbox = read(response).await?;
                self.learn(&sandbox).await?;
                Ok(sandbox)
            }
            Err(failure) if failure.status == StatusCode::NOT_FOUND => {
                self.inner.access.forget(vm_id);
                Err(VmError::Gone)
            }
            // It is being paused or killed at this moment.
            Err(failure) if failure.status == StatusCode::CONFLICT => {
                Err(VmError::Busy { retry_after: failure.retry_after.unwrap_or(Duration::from_secs(1)) })
            }
            Err(failure) => Err(failure.into()),
        }
    }

    fn is_ours(&self, listed: &ListedSandbox) -> bool {
        listed.metadata.get(DEPLOYMENT) == Some(&self.inner.config.deployment_id)
    }
}

fn info(listed: ListedSandbox) -> VmInfo {
    VmInfo {
        project_id: listed.metadata.get(PROJECT).cloned(),
        paused: listed.state == SandboxState::Paused,
        template: listed.alias.unwrap_or(listed.template_id),
        vm_id: listed.sandbox_id,
        cpus: listed.cpu_count,
        memory_mib: listed.memory_mb,
        disk_mib: listed.disk_size_mb,
        ends_at: Some(listed.end_at),
        last_traffic: None,
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, VmError> {
    response.json().await.map_err(unreachable)
}

impl CreateVm for VmClient {
    async fn create_vm(&self, vm: &NewVm) -> Result<VmInfo, VmError> {
        let metadata = BTreeMap::from([
            (DEPLOYMENT.to_owned(), self.inner.config.deployment_id.clone()),
            (PROJECT.to_owned(), vm.project_id.clone()),
        ]);
        let body = NewSandbox {
            template_id: vm.template.clone().unwrap_or_else(|| TEMPLATE.to_owned()),
            timeout: i64::try_from(vm.timeout_secs).ok(),
            auto_pause: Some(true),
            // Whoever opens the link of a service wakes the VM that has it; the clean-up then takes it into use.
            auto_resume: Some(AutoResume { enabled: true }),
            secure: Some(true),
            network: Some(NetworkConfig {
                allow_public_traffic: Some(false),
                egress: egress::config(&vm.egress),
                ..NetworkConfig::default()
            }),
            metadata,
            env_vars: vm.env.clone(),
            ..NewSandbox::default()
        };
        let made = match self.call(self.api(Method::POST, "/sandboxes").json(&body)).await? {
            Ok(response) => read::<Sandbox>(response).await?,
            Err(failure) => return Err(failure.into()),
        };
        self.learn(&made).await?;
        self.vm(&made.sandbox_id).await?.ok_or(VmError::Gone)
    }
}

impl SetEgress for VmClient {
    async fn set_egress(&self, vm_id: &str, rules: &[HeaderRule]) -> Result<(), VmError> {
        let body = NetworkUpdate { egress: egress::config(rules), allow_internet_access: None };
        let request = self.api(Method::PUT, &format!("/sandboxes/{vm_id}/network")).json(&body);
        match self.call(request).await? {
            Ok(_) => Ok(()),
            Err(failure) if failure.status == StatusCode::NOT_FOUND => Err(VmError::Gone),
            Err(failure) if failure.status == StatusCode::CONFLICT => {
                Err(VmError::Busy { retry_after: failure.retry_after.unwrap_or(Duration::from_secs(1)) })
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

impl FindVm for VmClient {
    async fn vm(&self, vm_id: &str) -> Result<Option<VmInfo>, VmError> {
        let detail = self.detail(vm_id).await?;
        Ok(detail.map(|detail| VmInfo { last_traffic: detail.last_traffic_at, ..info(detail.listed) }))
    }

    async fn vms(&self, project: Option<&str>) -> Result<Vec<VmInfo>, VmError> {
        let mut metadata = BTreeMap::from([(DEPLOYMENT.to_owned(), self.inner.config.deployment_id.clone())]);
        if let Some(project) = project {
            metadata.insert(PROJECT.to_owned(), project.to_owned());
        }
        let mut query = ListQuery { metadata, limit: Some(100), ..ListQuery::default() };
        let mut found = Vec::new();
        loop {
            let request = self.api(Method::GET, &format!("/v2/sandboxes?{}", query.to_query_string()));
            let response = self.call(request).await?.map_err(VmError::from)?;
            let next = response.headers().get(HEADER_NEXT_TOKEN).and_then(|value| value.to_str().ok());
            query.next_token = next.filter(|token| !token.is_empty()).map(str::to_owned);
            let page: Vec<ListedSandbox> = read(response).await?;
            // The server's filter is trusted for speed only: what is not ours must never be touched.
            let ours = page.into_iter().filter(|listed| self.is_ours(listed)).map(info);
            found.extend(
                ours.filter(|info| project.is_none_or(|project| info.project_id.as_deref() == Some(project))),
            );
            if query.next_token.is_none() {
                return Ok(found);
            }
        }
    }
}

impl ConnectVm for VmClient {
    async fn connect_vm(&self, vm_id: &str, timeout_secs: u64) -> Result<VmInfo, VmError> {
        self.connect(vm_id, timeout_secs).await?;
        self.vm(vm_id).await?.ok_or(VmError::Gone)
    }

    async fn boot_id(&self, vm_id: &str) -> Result<String, VmError> {
        // A sandbox of ours that was started again from its files has the kernel of before; it has an id of its own.
        match self.read_small(vm_id, "/run/pvm/boot_id", "root", 200).await {
            Ok(bytes) if !bytes.is_empty() => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Ok(_) | Err(VmError::NotFound(_)) => self.boot_id_by_script(vm_id).await,
            Err(error) => Err(error),
        }
    }

    fn traits(&self, vm_id: &str) -> VmTraits {
        // Only our own server's sandboxes keep a journal in their envd; of others it is not known.
        if !self.inner.access.get(vm_id).is_some_and(|access| access.journal) {
            return VmTraits::default();
        }
        let known = [
            ("apt", true),
            ("docker", false),
            ("internet", true),
            ("raw_tcp", false),
            ("sudo", true),
            ("systemd", false),
            ("udp", false),
        ];
        VmTraits {
            capabilities: known.map(|(name, has)| (name.to_owned(), has)).into(),
            isolation: Some("namespaces".to_owned()),
        }
    }

    async fn is_there(&self, vm_id: &str) -> Result<bool, VmError> {
        Ok(self.detail(vm_id).await?.is_some())
    }

    async fn know_links(&self, vm_id: &str) -> Result<(), VmError> {
        self.access(vm_id).await.map(|_| ())
    }

    fn port_url(&self, vm_id: &str, port: u16) -> String {
        self.port_link(vm_id, port, LINK_SECS)
    }

    fn port_link(&self, vm_id: &str, port: u16, secs: u64) -> String {
        let config = &self.inner.config;
        let url = format!("{}://{port}-{vm_id}.{}/", config.scheme, config.domain);
        let token = self.inner.access.get(vm_id).and_then(|access| access.traffic_token.clone());
        match token {
            Some(token) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let period = link::Period {
                    issued_at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                    expires_at: now.as_secs().saturating_add(secs).cast_signed(),
                };
                format!("{url}?{}={}", link::PARAMETER, link::sign(token.expose(), vm_id, port, period))
            }
            None => url,
        }
    }

    async fn revoke_links(&self, vm_id: &str, port: u16) -> Result<(), VmError> {
        let path = format!("/sandboxes/{vm_id}/ports/{port}/revoke-links");
        match self.call(self.api(Method::POST, &path)).await? {
            Ok(_) => Ok(()),
            // No such sandbox, and its links with it; or a server without this extension of ours.
            Err(failure) if failure.status == StatusCode::NOT_FOUND => match self.detail(vm_id).await? {
                None => Ok(()),
                Some(_) => {
                    Err(VmError::Refused("This VM's server has no links that could be revoked.".to_owned()))
                }
            },
            Err(failure) => Err(failure.into()),
        }
    }

    async fn meter(&self, vm_id: &str) -> Result<Option<VmUse>, VmError> {
        let path = "/metrics";
        let answer =
            self.ask_envd(vm_id, |access| self.envd(vm_id, access, "user", Method::GET, path)).await?;
        let told: EnvdMetrics = read(answer).await?;
        Ok(Some(VmUse {
            cpus: told.cpu_count,
            cpu_percent: told.cpu_used_pct,
            memory_bytes: told.mem_total,
            memory_used_bytes: told.mem_used,
            disk_bytes: told.disk_total,
            disk_used_bytes: told.disk_used,
        }))
    }
}

impl EndVm for VmClient {
    async fn pause_vm(&self, vm_id: &str) -> Result<(), VmError> {
        let request = self.api(Method::POST, &format!("/sandboxes/{vm_id}/pause"));
        match self.call(request.json(&PauseSandbox::default())).await? {
            Ok(_) => Ok(()),
            Err(failure) if failure.status == StatusCode::NOT_FOUND => Err(VmError::Gone),
            Err(failure) if failure.status == StatusCode::CONFLICT => match self.detail(vm_id).await? {
                Some(detail) if detail.listed.state == SandboxState::Paused => Ok(()),
                _ => Err(failure.into()),
            },
            Err(failure) => Err(failure.into()),
        }
    }

    async fn kill_vm(&self, vm_id: &str) -> Result<(), VmError> {
        self.inner.access.forget(vm_id);
        match self.call(self.api(Method::DELETE, &format!("/sandboxes/{vm_id}"))).await? {
            Ok(_) => Ok(()),
            Err(failure) if failure.status == StatusCode::NOT_FOUND => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// The time that a use of the VM gives it.
pub(crate) const TIMEOUT_SECS: u64 = limits::VM_TIMEOUT_SECS;
