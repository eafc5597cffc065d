//! `/vm` lines as runs of the VM's journal. Each line is a shell of its own, that begins where the agent's line before
//! ended: same directory, same exported environment, same functions. Kept is what a line changed and nothing else, so that
//! a new value of the project's environment reaches the next line. That state is in the VM, in the home of `user`, which
//! the line may write on every kind of server; a VM that was made anew begins afresh.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_domain::conversation::ToolCall;
use pvm_domain::file::WORKSPACE;
use pvm_domain::limits;
use pvm_domain::text::head_and_tail;
use serde_json::{Value, json};

use crate::ports::{ReadFrom, RunCommands, RunReport, RunSpec, RunState, VmError};
use crate::ports_tools::{ToolContext, ToolProgress, ToolResult};

/// A line may take this long, in seconds: installs take minutes, and a line has no place to name a time.
pub(super) const TIMEOUT_SECS: u64 = 900;
/// Output shown to those who watch, in bytes.
const WATCHED_BYTES: usize = 4096;

/// The line comes on standard input, so that no quoting stands between it and the shell; what it reads itself is empty.
/// The state is written under another name first: a line that is killed leaves the state before it.
const WRAPPER: &str = r#"
__pvm_dir="$HOME/.local/state/pvm/shells/$__PVM_SHELL"
unset __PVM_SHELL
mkdir -p "$__pvm_dir" 2>/dev/null
__pvm_save() {
  __pvm_status=$?
  trap - EXIT
  set +eux
  {
    pwd > "$__pvm_dir/cwd.new" && mv "$__pvm_dir/cwd.new" "$__pvm_dir/cwd"
    unset -f __pvm_save
    { __pvm_changes; unset -f __pvm_changes; declare -f; } > "$__pvm_dir/env.new" &&
      mv "$__pvm_dir/env.new" "$__pvm_dir/env"
  } 2>/dev/null
  exit "$__pvm_status"
}
__pvm_changes() {
  for __pvm_name in $(compgen -e); do
    case "$__pvm_name" in PWD | SHLVL | _) continue ;; esac
    if [ -n "${__pvm_first[$__pvm_name]+x}" ] && [ "${__pvm_first[$__pvm_name]}" = "${!__pvm_name}" ]; then continue; fi
    declare -p "$__pvm_name" | grep -q -E '^declare -[a-zA-Z]*r' || declare -p "$__pvm_name"
  done
  for __pvm_name in "${!__pvm_first[@]}"; do
    [ -n "${!__pvm_name+x}" ] || printf 'unset -v %s\n' "$__pvm_name"
  done
}
declare -A __pvm_first=()
for __pvm_name in $(compgen -e); do __pvm_first[$__pvm_name]="${!__pvm_name}"; done
if [ -f "$__pvm_dir/env" ]; then . "$__pvm_dir/env" 2>/dev/null; fi
if [ -f "$__pvm_dir/cwd" ]; then
  cd -- "$(cat "$__pvm_dir/cwd")" 2>/dev/null || echo "(the directory of the line before is gone; this one runs in $PWD)" >&2
fi
__pvm_line="$(cat)"
exec < /dev/null
trap __pvm_save EXIT
eval "$__pvm_line"
"#;

/// The journal's spec of a line.
pub(crate) fn spec(call: &ToolCall, context: &ToolContext) -> RunSpec {
    let line = call.arguments.get("command").and_then(Value::as_str).unwrap_or_default();
    let mut env: BTreeMap<String, String> = context.env.clone();
    // A lane has a directory of its own, so its shell begins afresh.
    let shell = if context.working_dir == WORKSPACE {
        format!("{}-{}", call.conversation_id, call.agent_id)
    } else {
        call.run_id.to_string()
    };
    env.insert("__PVM_SHELL".to_owned(), shell);
    RunSpec {
        run_id: context.call_id.clone(),
        command: WRAPPER.to_owned(),
        working_dir: context.working_dir.clone(),
        env,
        stdin: Some(line.to_owned()),
        user: "user".to_owned(),
        timeout_secs: Some(TIMEOUT_SECS),
    }
}

/// Starts the line unless it was started, and watches it.
///
/// # Errors
/// Of the VM.
pub(crate) async fn start(
    vm: &impl RunCommands,
    call: &ToolCall,
    context: &ToolContext,
    wait: Duration,
) -> Result<ToolProgress, VmError> {
    let report = vm.start_run(&context.vm_id, &spec(call, context), wait).await?;
    Ok(progress(&report))
}

/// Watches a line that was started.
///
/// # Errors
/// Of the VM; `NotFound` where this VM does not know it.
pub(crate) async fn poll(
    vm: &impl RunCommands,
    call: &ToolCall,
    context: &ToolContext,
    wait: Duration,
) -> Result<ToolProgress, VmError> {
    // Asked first, because starting would start what this VM does not know.
    let from = ReadFrom { stdout: 0, stderr: 0, limit: 1, wait: Duration::ZERO };
    match vm.read_run(&context.vm_id, &context.call_id, from).await? {
        Some(_) => start(vm, call, context, wait).await,
        None => Err(VmError::NotFound(format!("run {}", context.call_id))),
    }
}

fn progress(report: &RunReport) -> ToolProgress {
    let (stdout, stderr) = (output(&report.stdout.data), output(&report.stderr.data));
    let mut text = stdout;
    if !stderr.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&stderr);
    }
    if report.state == RunState::Running {
        let output = head_and_tail(&text, WATCHED_BYTES).0;
        return ToolProgress::Running { delay: Duration::from_secs(2), output };
    }
    let status = match (report.state, report.exit_code, report.signal) {
        (RunState::Exited, Some(0), _) => None,
        (RunState::Exited, Some(code), _) => Some(format!("[exit code {code}]")),
        (RunState::TimedOut, ..) => Some(format!("[killed: it took longer than {TIMEOUT_SECS} seconds]")),
        (RunState::Lost, ..) => {
            Some("[lost: the machine was restarted while it ran; its outcome is not known]".to_owned())
        }
        (_, _, Some(signal)) => Some(format!("[ended by signal {signal}]")),
        _ => Some("[killed]".to_owned()),
    };
    let (mut text, cut) = head_and_tail(&text, limits::OUTPUT_TO_MODEL_BYTES);
    match &status {
        Some(status) => {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(status);
        }
        None if text.trim().is_empty() => "(no output)".clone_into(&mut text),
        None => {}
    }
    let whole = cut || report.stdout.dropped > 0 || report.stderr.dropped > 0;
    ToolProgress::Done(ToolResult {
        is_error: status.is_some(),
        text,
        structured: Some(json!({
            "exit_code": report.exit_code,
            "signal": report.signal,
            "state": report.state,
            "duration_ms": report.duration_ms,
        })),
        output_path: whole.then(|| "the journal of the VM keeps the whole output".to_owned()),
    })
}

fn output(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// Runs a line as the journal would, with this environment of the project.
    fn line(home: &Path, env: &[(&str, &str)], line: &str) -> String {
        let mut command = Command::new("bash");
        command.args(["-c", WRAPPER]).current_dir(home).env_clear();
        command.env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap()).env("__PVM_SHELL", "one");
        command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), line.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_line_begins_where_the_one_before_ended() {
        let home = tempfile::tempdir().unwrap();
        let run = |text: &str| line(home.path(), &[], text);
        run("mkdir app && cd app && export ONE='a b' MANY=$'x\ny \"z\"' && greet() { echo \"hello $1\"; }");
        assert_eq!(run("echo \"${PWD##*/}|$ONE|$MANY\"; greet you"), "app|a b|x\ny \"z\"\nhello you\n");
        run("unset ONE; export PATH=\"/opt/x:$PATH\"");
        assert_eq!(run("echo \"${ONE-none} ${PATH%%:*}\""), "none /opt/x\n");
        // A line that changes nothing keeps what the ones before it changed.
        run("true");
        assert_eq!(run("echo \"${PWD##*/} ${PATH%%:*}\"; greet us"), "app /opt/x\nhello us\n");
    }

    #[test]
    fn a_new_value_of_the_projects_environment_reaches_the_next_line() {
        let home = tempfile::tempdir().unwrap();
        let run = |url: &str, text: &str| line(home.path(), &[("URL", url), ("LEVEL", "1")], text);
        assert_eq!(run("old", "export MINE=1 LEVEL=2; echo $URL"), "old\n");
        assert_eq!(run("new", "echo \"$URL $MINE $LEVEL\""), "new 1 2\n");
        run("new", "unset URL");
        assert_eq!(run("new", "echo \"${URL-gone}\""), "gone\n");
        // What is kept does not hold the project's values.
        let kept = home.path().join(".local/state/pvm/shells/one/env");
        assert!(!std::fs::read_to_string(kept).unwrap().contains("new"));
    }
}
