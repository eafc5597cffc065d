//! Starting a service.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_domain::Invalid;
use pvm_domain::command::directory;
use pvm_domain::ids::{OwnerId, ProjectId, ServiceId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::service::{Ready, Restart, Service, ServiceStatus};
use pvm_domain::{limits, text};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, ConnectVm, RunCommands, StartExecution, VmError};
use crate::services::end::end;
use crate::services::{ServiceName, begin, by_name, noted, script};
use crate::store::{Condition, StoreError, Tx, WriteStore};
use crate::vm::{ReadyVm, lease, ready};

/// The longest time a service may take to get ready, in seconds.
const READY_MAX_SECS: u64 = 600;

/// Everything that a start waits for is over within this time: API Gateway ends a call at 29 s.
const WITHIN: Duration = Duration::from_secs(25);
/// The VM may need this long to wake; it goes on waking afterwards.
const VM_WITHIN: Duration = Duration::from_secs(20);

/// A service as asked for.
#[derive(Debug, Clone)]
pub struct NewService {
    /// Name, `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// Shell line that runs it in the foreground.
    pub command: String,
    /// Port it listens on.
    pub port: Option<u16>,
    /// Directory.
    pub working_dir: String,
    /// `user` or `root`.
    pub user: String,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// How to tell that it is ready.
    pub ready: Option<Ready>,
    /// Seconds it may take to get ready.
    pub ready_timeout_secs: u64,
    /// When it is started again.
    pub restart: Restart,
    /// Services that must be ready first.
    pub depends_on: Vec<String>,
    /// How long the caller waits for it to get ready.
    pub wait: Duration,
}

impl NewService {
    fn check(&mut self) -> Result<(), Invalid> {
        let name_ok = (1..=64).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !name_ok {
            return Err(Invalid::new("name", "must be 1 to 64 letters, digits, _, . and -"));
        }
        if self.command.trim().is_empty() || self.command.contains('\0') {
            return Err(Invalid::new("command", "must not be empty or contain a NUL byte"));
        }
        if self.command.len() > limits::COMMAND_BYTES {
            return Err(Invalid::new("command", "must have at most 131,008 bytes"));
        }
        if self.port == Some(0) {
            return Err(Invalid::new("port", "must be 1 to 65535"));
        }
        if self.user != "user" && self.user != "root" {
            return Err(Invalid::new("user", "must be \"user\" or \"root\""));
        }
        if !(1..=READY_MAX_SECS).contains(&self.ready_timeout_secs) {
            return Err(Invalid::new("ready_timeout_secs", "must be 1 to 600"));
        }
        match &self.ready {
            Some(Ready::Port | Ready::HttpPath(_)) if self.port.is_none() => {
                return Err(Invalid::new("ready", "needs a `port`"));
            }
            Some(Ready::HttpPath(path)) if !path.starts_with('/') || path.contains(char::is_whitespace) => {
                return Err(Invalid::new("ready.http_path", "must start with `/` and have no white space"));
            }
            Some(Ready::LogLine(text)) if text.is_empty() || text.contains('\n') => {
                return Err(Invalid::new("ready.log_line", "must be one line of text"));
            }
            _ => {}
        }
        self.working_dir = directory("working_dir", &self.working_dir)?;
        text::env("env", &self.env)
    }
}

/// Starts a service, readying the VM if it must be, and waits as the caller wants for it to get ready. A name that
/// belongs to a stopped or failed service is taken over by the new one.
///
/// # Errors
/// `invalid` for a broken field, `conflict` where the name is in use, `vm_not_ready`.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn start<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    mut input: NewService,
) -> AppResult<(Service, Option<String>)>
where
    S: WriteStore,
    W: StartExecution,
    V: RunCommands + ConnectVm,
    A: Ambient,
{
    let owner = authorize(store, principal, project_id, Scope::Write).await?.owner;
    input.check()?;
    if let Some(id) = replayed(store, claim, ambient.now()).await? {
        let id: ServiceId = id.parse().map_err(|_| AppError::not_found("service"))?;
        let service = super::load(store, project_id, &id).await?;
        let lease = lease::load(store, ambient, project_id).await?;
        let url = super::urls(vm, &lease, std::slice::from_ref(&service)).await?.pop().flatten();
        return Ok((service, url));
    }
    // A name that cannot be waited for is told before a VM is woken for it.
    needed(store, project_id, &input.depends_on).await?;
    let deadline = ambient.now() + WITHIN;
    let wait = input.wait;
    let ready = ready::ready(store, workflow, vm, ambient, project_id, VM_WITHIN).await?;
    // After the VM is there: waking it starts the services anew, and these are the starts to wait for.
    let needs = needed(store, project_id, &input.depends_on).await?;
    let left = Duration::try_from(deadline.duration_since(ambient.now())).unwrap_or_default();
    let wait = wait.min(left.max(Duration::from_secs(1)));
    retire(store, vm, project_id, &ready, &input.name).await?;
    let mut service = claim_name(store, ambient, project_id, owner, claim, input, needs, ready.epoch).await?;
    let began = begin::begin(vm, &ready.vm_id, &service, wait).await;
    let (status, reason) = match began {
        Ok(found) => found,
        Err(error @ (VmError::Gone | VmError::Paused)) => {
            lease::note_away(store, ambient, project_id, &ready.vm_id, &error).await?;
            (ServiceStatus::Starting, None)
        }
        Err(VmError::Refused(why)) => (ServiceStatus::Failed, Some(why)),
        Err(VmError::NotFound(what)) => (ServiceStatus::Failed, Some(format!("The VM has no {what}."))),
        Err(error) => return Err(error.into()),
    };
    if status != service.status || reason != service.reason {
        service.status = status;
        service.reason = reason;
        match store.commit(noted(Tx::new(), &mut service, ambient)).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                service = super::load(store, project_id, &service.service_id).await?;
            }
            Err(other) => return Err(other.into()),
        }
    }
    let url = service.port.map(|port| vm.port_url(&ready.vm_id, port));
    Ok((service, url))
}

/// The starts that a service with these dependencies waits for. Those with nothing to watch count as ready.
async fn needed(
    store: &impl WriteStore,
    project_id: &ProjectId,
    names: &[String],
) -> AppResult<Vec<(String, String)>> {
    let mut needs = Vec::new();
    for wanted in names {
        let Some(found) = by_name(store, project_id, wanted).await? else {
            let shown: String = wanted.chars().take(64).collect();
            return Err(AppError::invalid(
                "depends_on",
                format!("names {shown:?}, which is no service of this project; start that one first"),
            ));
        };
        if matches!(found.status, ServiceStatus::Failed | ServiceStatus::Stopped) {
            let reason = found.reason.unwrap_or_default();
            return Err(AppError::new(
                ErrorCode::Conflict,
                format!("The service {wanted:?}, which this one depends on, is {:?}. {reason}", found.status),
            ));
        }
        if script::readiness(&found).is_some() {
            needs.push((wanted.clone(), found.journal_id()));
        }
    }
    Ok(needs)
}

/// Ends the program of a failed start before its name is taken over: one that did not get ready in time still runs, and may
/// hold the port.
async fn retire(
    store: &impl WriteStore,
    vm: &impl RunCommands,
    project_id: &ProjectId,
    ready: &ReadyVm,
    name: &str,
) -> AppResult<()> {
    let known = by_name(store, project_id, name).await?;
    let over = |service: &Service| {
        matches!(service.status, ServiceStatus::Failed | ServiceStatus::Stopped)
            && service.epoch == Some(ready.epoch)
    };
    match known.filter(over) {
        Some(service) => Ok(end(vm, &ready.vm_id, &service).await?),
        None => Ok(()),
    }
}

/// Records the service with its name claimed, before anything is started.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
async fn claim_name<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    owner: OwnerId,
    claim: Option<&Claim>,
    input: NewService,
    needs: Vec<(String, String)>,
    epoch: u64,
) -> AppResult<Service> {
    let limits = fair_use::limits_of(store, &owner).await?;
    let known = by_name(store, project_id, &input.name).await?;
    if let Some(known) = &known
        && matches!(known.status, ServiceStatus::Starting | ServiceStatus::Running)
    {
        return Err(AppError::new(
            ErrorCode::Conflict,
            format!(
                "A service named {:?} is {:?} already; stop it first or choose another name.",
                known.name, known.status
            ),
        ));
    }
    let (service_id, attempt, version) = match &known {
        Some(known) => (known.service_id.clone(), known.attempt + 1, known.version),
        None => (ambient.new_id(), 1, 0),
    };
    let mut service = Service {
        project_id: project_id.clone(),
        service_id: service_id.clone(),
        name: input.name.clone(),
        command: input.command,
        port: input.port,
        working_dir: input.working_dir,
        user: input.user,
        env: input.env,
        ready: input.ready,
        ready_timeout_secs: input.ready_timeout_secs,
        restart: input.restart,
        depends_on: input.depends_on,
        needs,
        status: ServiceStatus::Starting,
        reason: None,
        attempt,
        failures: 0,
        epoch: Some(epoch),
        started_at: Some(ambient.now()),
        created_at: known.as_ref().map_or_else(|| ambient.now(), |known| known.created_at),
        owner: Some(owner),
        counted: known.as_ref().map(|known| known.counted).unwrap_or_default(),
        version,
    };
    let mut tx =
        noted(Tx::new(), &mut service, ambient).require(keys::project(project_id), Condition::Present);
    if known.is_none() {
        let mut name = ServiceName {
            project_id: project_id.clone(),
            name: input.name,
            service_id: service_id.clone(),
            version: 0,
        };
        tx = tx.create(&mut name);
    }
    if let Some(claim) = claim {
        tx = tx.create(&mut claim.record(&service_id, ambient.now()));
    }
    match store.commit(tx.within(&limits)).await {
        Ok(_) => Ok(service),
        Err(StoreError::Conflict { .. }) => Err(AppError::new(
            ErrorCode::Conflict,
            "A service of this name is being started by somebody else; list the services and try again.",
        )),
        Err(other) => Err(other.into()),
    }
}
