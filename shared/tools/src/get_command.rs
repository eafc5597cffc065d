//! `get_command`: how a command that was started earlier stands.

use std::time::Duration;

use pvm_application::ports::{ReadFrom, RunCommands};
use pvm_contracts::tools::{CommandOutput, GetCommandArgs};
use pvm_domain::{Invalid, limits};

use crate::call::{Answer, Call, Ports, Stop, result};
use crate::catalogue::{Effect, Spec};
use crate::{output, schema};

pub(crate) type Args = GetCommandArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "get_command",
    title: "Look at a command",
    description: "Status and output of a command that was started earlier in this VM: a background command, or a tool \
        call that answered that it still runs. Give wait_secs to wait for its end, and offset to read only what is \
        new.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<CommandOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: false,
    long: false,
};

/// Checks the id of a command. Services' runs are in the same journal and are not commands.
pub(crate) fn checked_id(text: &str) -> Result<&str, Invalid> {
    let text = text.trim();
    let form = (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if form && (text.starts_with("cmd_") || text.starts_with("call_")) {
        Ok(text)
    } else {
        Err(Invalid::new(
            "command_id",
            "must be the command_id of an earlier answer, such as cmd_... or call_...",
        ))
    }
}

pub(crate) fn unknown(id: &str) -> Stop {
    Stop::error(format!(
        "This VM does not know the command {id}. Either there never was one, or the VM was replaced since, and then \
         the command's outcome is unknown."
    ))
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let id = checked_id(&args.command_id)?;
    let wait = Duration::from_secs(args.wait_secs.unwrap_or(0).min(limits::POLL_WAIT_SECS)).min(call.wait);
    let mut report = call.watch(id, wait).await?.ok_or_else(|| unknown(id))?;
    let mut shown = output::command(call, id, &report).await?;
    if let Some(offset) = args.offset {
        let from = ReadFrom {
            stdout: offset,
            stderr: report.stderr.total,
            limit: limits::OUTPUT_TO_MODEL_BYTES as u64 - 2048,
            wait: Duration::ZERO,
        };
        report = call.ports.vm().read_run(call.vm_id(), id, from).await?.ok_or_else(|| unknown(id))?;
        shown.stdout = output::plain(&report.stdout.data);
        shown.stderr = String::new();
        shown.truncated = report.stdout.next < report.stdout.total;
        shown.stdout_path = None;
        shown.stderr_path = None;
        shown.next_offset = Some(report.stdout.next);
    }
    let text = output::text_of(&shown);
    let mut done = result(false, text, &shown);
    done.output_path.clone_from(&shown.stdout_path);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_commands_are_taken() {
        assert_eq!(checked_id(" cmd_1 "), Ok("cmd_1"));
        assert!(checked_id("call_01-2").is_ok());
        for bad in ["svc_1-1", "", "cmd_../x", "1"] {
            assert!(checked_id(bad).is_err(), "{bad}");
        }
    }
}
