//! `execute_command`: any shell line, once.

use std::collections::BTreeMap;

use pvm_application::ports::RunCommands;
use pvm_application::ports_tools::ToolContext;
use pvm_contracts::tools::{CommandOutput, ExecuteCommandArgs};
use pvm_domain::command::{CommandSpec, CommandStatus};
use pvm_domain::{Invalid, install, limits};

use crate::call::{Answer, Call, Mode, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::{output, paths, recipe, schema};

pub(crate) type Args = ExecuteCommandArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "execute_command",
    title: "Run a command",
    description: "Run a shell line in the project's Linux VM and return its exit code, standard output and standard \
        error. Each call is a new bash -l in /workspace as `user`, who may use sudo without a password. The default \
        time limit is 60 seconds: for installs use install_package, for servers start_service, and for other long \
        work background=true and later get_command. Output longer than 32 KiB is cut in the middle and the file \
        with the whole is named. A command that fails is a normal result: read the exit code.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<CommandOutput>,
    effect: Effect::Acts,
    destructive: true,
    open_world: true,
    needs_vm: true,
    runs_command: true,
    may_change_files: true,
    long: true,
};

/// Reads `NAME=value` pairs.
pub(crate) fn pairs(field: &str, pairs: &[String]) -> Result<BTreeMap<String, String>, Invalid> {
    let read = |pair: &String| {
        let shown = || pair.chars().take(40).collect::<String>();
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Invalid::new(field, format!("has {:?}; write each as NAME=value", shown())))?;
        Ok((name.trim().to_owned(), value.to_owned()))
    };
    pairs.iter().map(read).collect()
}

/// What is known of a command that still runs.
pub(crate) fn running(context: &ToolContext, _args: Args, output: String) -> CommandOutput {
    CommandOutput {
        command_id: context.call_id.clone(),
        status: CommandStatus::Running,
        exit_code: None,
        signal: None,
        stdout: output,
        stderr: String::new(),
        truncated: true,
        stdout_path: Some(output::path_of(&context.call_id, "stdout")),
        stderr_path: Some(output::path_of(&context.call_id, "stderr")),
        next_offset: None,
        duration_ms: 0,
    }
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let default_time =
        if args.background { limits::COMMAND_TIMEOUT_MAX_SECS } else { limits::COMMAND_TIMEOUT_DEFAULT_SECS };
    let spec = CommandSpec {
        command: args.command,
        working_dir: paths::directory(call.context, args.user, "working_dir", args.working_dir.as_deref())?,
        env: pairs("env", &args.env)?,
        stdin: args.stdin,
        user: args.user.as_str().to_owned(),
        timeout_secs: args.timeout_secs.unwrap_or(default_time),
    }
    .checked()?;
    let mut run = call.run_of(spec.command, args.user, spec.timeout_secs);
    run.working_dir = spec.working_dir;
    let given = spec.env;
    run.env.extend(given.clone());
    run.stdin = spec.stdin;
    let report = if args.background {
        match call.mode {
            // A moment is enough to see a command that fails at once.
            Mode::Start => {
                let moment = std::time::Duration::from_millis(300).min(call.wait);
                call.ports.vm().start_run(call.vm_id(), &run, moment).await?
            }
            Mode::Poll => match call.watch(&run.run_id, std::time::Duration::ZERO).await? {
                Some(report) => report,
                None => call.run(&run).await?,
            },
        }
    } else {
        call.run(&run).await?
    };
    let shown = output::command(call, &run.run_id, &report).await?;
    if shown.status == CommandStatus::Exited && shown.exit_code == Some(0) && !install::is_redirected(&given)
    {
        recipe::record_line(call, &run).await;
    }
    let mut text = output::text_of(&shown);
    if shown.status == CommandStatus::Running {
        text = format!(
            "Started in the background as {id}. Look at it with get_command, end it with kill_command; its output \
             goes to {path} in the VM.\n{text}",
            id = shown.command_id,
            path = output::path_of(&shown.command_id, "stdout"),
        );
    }
    let failed = shown.status != CommandStatus::Running && shown.exit_code != Some(0);
    let mut done = result(failed, text, &shown);
    done.output_path = shown.stdout_path.or(shown.stderr_path);
    Ok(done)
}
