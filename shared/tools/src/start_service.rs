//! `start_service`: a program that the project keeps running.

use std::time::Duration;

use pvm_application::error::{AppError, ErrorCode};
use pvm_application::idempotency::Claim;
use pvm_application::services::{self, NewService};
use pvm_contracts::tools::{ServiceOutput, StartServiceArgs};
use pvm_domain::Invalid;
use pvm_domain::service::{Ready, Service, ServiceStatus};

use crate::call::{Answer, Call, Ports, Stop, result};
use crate::catalogue::{Effect, Spec};
use crate::execute_command::pairs;
use crate::{output, paths, project_services, schema};

pub(crate) type Args = StartServiceArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "start_service",
    title: "Start a service",
    description: "Start a long-running program, such as a web server, a database or a notebook, and keep it running: it \
        is started again when it fails and when the VM is rebuilt. Waits until its port accepts connections and \
        answers its URL, or the end of its output if it failed. A service of this name that runs already with the \
        same command is left as it is; to change it, stop it first.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<ServiceOutput>,
    effect: Effect::Converges,
    destructive: false,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: true,
    long: false,
};

/// Seconds that a service may take to get ready.
const READY_SECS: u64 = 60;
/// What is left of the wait after the service's own, for the records around it.
const MARGIN: Duration = Duration::from_secs(2);

fn readiness(args: &Args) -> Result<Option<Ready>, Invalid> {
    match (&args.ready_http_path, &args.ready_log_line) {
        (Some(_), Some(_)) => {
            Err(Invalid::new("ready_log_line", "cannot be given together with ready_http_path"))
        }
        (Some(path), None) => Ok(Some(Ready::HttpPath(path.clone()))),
        (None, Some(line)) => Ok(Some(Ready::LogLine(line.clone()))),
        (None, None) => Ok(None),
    }
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let ports = call.ports;
    let ready = readiness(&args)?;
    let mut env = call.context.env.clone();
    env.extend(pairs("env", &args.env)?);
    let working_dir = paths::directory(call.context, args.user, "working_dir", args.working_dir.as_deref())?;
    let principal = project_services::owner(call).await?;
    let claim = Claim::new(&principal.owner, &call.context.call_id, "tool start_service", &[])?;
    let input = NewService {
        name: args.name.trim().to_owned(),
        command: args.command.clone(),
        port: args.port,
        working_dir: working_dir.clone(),
        user: args.user.as_str().to_owned(),
        env,
        ready,
        ready_timeout_secs: READY_SECS,
        restart: args.restart,
        depends_on: Vec::new(),
        wait: call.wait.saturating_sub(MARGIN),
    };
    let started = services::start(
        ports.store(),
        ports.workflow(),
        ports.vm(),
        ports.ambient(),
        &principal,
        &call.context.project_id,
        Some(&claim),
        input,
    )
    .await;
    let (service, url) = match started {
        Ok(found) => found,
        Err(error) if error.code == ErrorCode::Conflict => running(call, &args, &working_dir, error).await?,
        Err(error) => return Err(error.into()),
    };
    let mut out = project_services::shown(&service, url);
    project_services::explain(call, &principal, &service, &mut out).await?;
    let text = match service.status {
        ServiceStatus::Running => format!("Started {}.", project_services::line(&out)),
        ServiceStatus::Starting => format!(
            "{}. It is not ready yet; look at it with list_services and service_logs.",
            project_services::line(&out)
        ),
        ServiceStatus::Failed | ServiceStatus::Stopped => {
            let log = out.log.as_deref().unwrap_or("(no output)");
            format!("{}. The end of its output:\n{log}", project_services::line(&out))
        }
    };
    Ok(result(service.status == ServiceStatus::Failed, output::fit(&text), &out))
}

/// The service of this name, if it is what was asked for.
async fn running<P: Ports>(
    call: &Call<'_, P>,
    args: &Args,
    working_dir: &str,
    conflict: AppError,
) -> Result<(Service, Option<String>), Stop> {
    let known = services::by_name(call.ports.store(), &call.context.project_id, args.name.trim()).await?;
    let same = |known: &Service| {
        known.command == args.command && known.port == args.port && known.working_dir == working_dir
    };
    match known {
        Some(known) if same(&known) => {
            use pvm_application::ports::ConnectVm as _;
            let url = known.port.map(|port| call.ports.vm().port_url(call.vm_id(), port));
            Ok((known, url))
        }
        _ => Err(Stop::from(conflict)),
    }
}
