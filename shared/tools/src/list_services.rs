//! `list_services`.

use pvm_application::services;
use pvm_contracts::tools::{ListServicesArgs, ListServicesOutput};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::{output, project_services, schema};

pub(crate) type Args = ListServicesArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "list_services",
    title: "List services",
    description: "The project's services with their status, port and URL.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<ListServicesOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: false,
    runs_command: false,
    may_change_files: false,
    long: false,
};

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, _args: Args) -> Answer {
    let principal = project_services::owner(call).await?;
    let ports = call.ports;
    let mut all =
        services::list(ports.store(), ports.vm(), ports.ambient(), &principal, &call.context.project_id)
            .await?;
    all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let services: Vec<_> =
        all.into_iter().map(|(service, url)| project_services::shown(&service, url)).collect();
    let lines: Vec<String> = services.iter().map(project_services::line).collect();
    let text = if lines.is_empty() { "There are no services.".to_owned() } else { lines.join("\n") };
    Ok(result(false, output::fit(&text), &ListServicesOutput { services }))
}
