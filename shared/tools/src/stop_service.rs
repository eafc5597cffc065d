//! `stop_service`.

use pvm_application::services;
use pvm_contracts::tools::{ServiceOutput, StopServiceArgs};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::{project_services, schema};

pub(crate) type Args = StopServiceArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "stop_service",
    title: "Stop a service",
    description: "Stop a service and forget it: it is not started again, and its name is free.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<ServiceOutput>,
    effect: Effect::Converges,
    destructive: true,
    open_world: false,
    needs_vm: false,
    runs_command: false,
    may_change_files: false,
    long: false,
};

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let principal = project_services::owner(call).await?;
    let service = project_services::find(call, &args.name).await?;
    let ports = call.ports;
    let project_id = &call.context.project_id;
    let stopped = services::stop(
        ports.store(),
        ports.vm(),
        ports.ambient(),
        &principal,
        project_id,
        &service.service_id,
    )
    .await?;
    let out = project_services::shown(&stopped, None);
    Ok(result(false, format!("Stopped {}.", project_services::line(&out)), &out))
}
