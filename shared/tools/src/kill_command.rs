//! `kill_command`: ends a command that was started earlier.

use std::time::Duration;

use pvm_application::ports::RunCommands;
use pvm_contracts::tools::{CommandOutput, KillCommandArgs};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::get_command::{checked_id, unknown};
use crate::{output, schema};

pub(crate) type Args = KillCommandArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "kill_command",
    title: "Kill a command",
    description: "Kill a running command and everything it started. Answers how it ended; a command that has ended \
        already stays as it is.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<CommandOutput>,
    effect: Effect::Converges,
    destructive: true,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: false,
    long: false,
};

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let id = checked_id(&args.command_id)?;
    call.watch(id, Duration::ZERO).await?.ok_or_else(|| unknown(id))?;
    call.ports.vm().kill_run(call.vm_id(), id).await?;
    let report = call.watch(id, Duration::from_secs(3)).await?.ok_or_else(|| unknown(id))?;
    let shown = output::command(call, id, &report).await?;
    Ok(result(false, output::text_of(&shown), &shown))
}
