//! `service_logs`.

use pvm_contracts::tools::{ServiceLogsArgs, ServiceLogsOutput};
use pvm_domain::{Invalid, limits};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::{output, project_services, schema};

pub(crate) type Args = ServiceLogsArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "service_logs",
    title: "Read a service's output",
    description: "The last lines that a service wrote to standard output and standard error.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<ServiceLogsOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: false,
    runs_command: false,
    may_change_files: false,
    long: false,
};

/// Bytes of each stream that are read: both fit into one result.
const STREAM_BYTES: u64 = limits::OUTPUT_TO_MODEL_BYTES as u64 / 2 - 512;

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let lines = args.lines.unwrap_or(100);
    if !(1..=2000).contains(&lines) {
        return Err(Invalid::new("lines", "must be 1 to 2000").into());
    }
    let principal = project_services::owner(call).await?;
    let service = project_services::find(call, &args.name).await?;
    let (log, mut truncated) =
        project_services::log(call, &principal, &service, STREAM_BYTES).await?.unwrap_or_default();
    let all: Vec<&str> = log.trim_end().lines().collect();
    let from = all.len().saturating_sub(lines);
    truncated |= from > 0;
    let log = all[from..].join("\n");
    let head = project_services::line(&project_services::shown(&service, None));
    let text = if log.is_empty() { format!("{head}\n(no output)") } else { format!("{head}\n{log}") };
    let out = ServiceLogsOutput { name: service.name, status: service.status, log, truncated };
    Ok(result(false, output::fit(&text), &out))
}
