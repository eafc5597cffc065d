//! `git_operations`: the everyday work with a repository. Credentials are none of its business: the egress proxy adds
//! them to requests by host.

mod plan;
mod read;

use pvm_application::ports::{RunReport, RunState};
use pvm_application::ports_tools::ToolContext;
use pvm_contracts::tools::{GitArgs, GitOperation, GitOutput, RunAs};
use pvm_domain::{Invalid, limits, text};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::shell::{quote, quote_all};
use crate::{output, paths, schema};

pub(crate) type Args = GitArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "git_operations",
    title: "Work with git",
    description: "Work with a git repository in the VM: clone, init, status, add, commit, branch, checkout, merge, diff, \
        log, pull, push, remote, stash and tag. Answers status, commits and names as data besides git's output. \
        Access to private repositories is given by the project's secrets for the host; never put a password or token \
        into a URL.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<GitOutput>,
    effect: Effect::Acts,
    destructive: true,
    open_world: true,
    needs_vm: true,
    runs_command: true,
    may_change_files: true,
    long: true,
};

/// Seconds for operations that talk to a remote, unless asked otherwise.
const REMOTE_TIMEOUT_SECS: u64 = 600;
/// Bytes of git's output in a result; the data beside it has its own room.
const OUTPUT_BYTES: usize = 24 * 1024;

/// A commit needs an author. One that is configured is used, else the agent signs. Locks and prompts must not hang.
fn prelude(author: &str) -> String {
    format!(
        "export GIT_TERMINAL_PROMPT=0 GIT_PAGER=cat GIT_EDITOR=true\n\
         git config user.name >/dev/null 2>&1 || export GIT_AUTHOR_NAME={0} GIT_COMMITTER_NAME={0}\n\
         git config user.email >/dev/null 2>&1 || export GIT_AUTHOR_EMAIL=agent@localhost \
         GIT_COMMITTER_EMAIL=agent@localhost\n",
        quote(author)
    )
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let plan = plan::plan(&args)?;
    let remote = matches!(args.operation, GitOperation::Clone | GitOperation::Pull | GitOperation::Push);
    let timeout = args.timeout_secs.unwrap_or(if remote {
        REMOTE_TIMEOUT_SECS
    } else {
        limits::COMMAND_TIMEOUT_DEFAULT_SECS
    });
    if !(1..=limits::COMMAND_TIMEOUT_MAX_SECS).contains(&timeout) {
        return Err(Invalid::new("timeout_secs", "must be 1 to 86400").into());
    }
    let path = match (args.operation, &args.path) {
        (GitOperation::Clone, None) => {
            let name = plan::repository_name(args.url.as_deref().unwrap_or_default());
            paths::writable(call.context, RunAs::User, "path", &name)?
        }
        (_, path) => paths::directory(call.context, RunAs::User, "path", path.as_deref())?,
    };
    let author = call.context.agent_id.as_deref().unwrap_or("agent");
    let enter = match args.operation {
        GitOperation::Clone => String::new(),
        GitOperation::Init => format!("mkdir -p {0} && cd {0} || exit 1\n", quote(&path)),
        _ => format!("cd {} || exit 1\n", quote(&path)),
    };
    let target =
        if args.operation == GitOperation::Clone { format!(" {}", quote(&path)) } else { String::new() };
    let line = format!("git {}{target}", quote_all(&plan.words));
    let then = plan.then.map_or(String::new(), |words| format!(" && git {}", quote_all(&words)));
    let mut run = call.run_of(format!("{enter}{}{line}{then}", prelude(author)), RunAs::User, timeout);
    "/".clone_into(&mut run.working_dir);
    let report = call.run(&run).await?;
    let out = read_report(&report, &args, plan.reads, path, &run.run_id);
    Ok(result(!out.success, text_of(&out, &report), &out))
}

/// What is known of an operation that still runs.
pub(crate) fn running(context: &ToolContext, args: Args, output: String) -> GitOutput {
    GitOutput {
        operation: args.operation,
        success: false,
        exit_code: None,
        path: paths::directory(context, RunAs::User, "path", args.path.as_deref()).unwrap_or_default(),
        status: None,
        commits: Vec::new(),
        names: Vec::new(),
        output,
        truncated: true,
        command_id: context.call_id.clone(),
    }
}

fn read_report(report: &RunReport, args: &Args, reads: plan::Reads, path: String, run_id: &str) -> GitOutput {
    let raw = String::from_utf8_lossy(&report.stdout.data).into_owned();
    let said = output::plain(&report.stderr.data);
    let mut out = GitOutput {
        operation: args.operation,
        success: report.state == RunState::Exited && report.exit_code == Some(0),
        exit_code: report.exit_code,
        path,
        status: None,
        commits: Vec::new(),
        names: Vec::new(),
        output: String::new(),
        truncated: false,
        command_id: run_id.to_owned(),
    };
    let shown = match (out.success, reads) {
        (true, plan::Reads::Status) => {
            let status = read::status(&raw);
            let text = read::status_text(&status);
            out.status = Some(status);
            text
        }
        (true, plan::Reads::Commits) => {
            out.commits = read::commits(&raw);
            read::commits_text(&out.commits)
        }
        (true, plan::Reads::LastCommit) => {
            let (said, last) = raw.rsplit_once(read::MARK).unwrap_or((&raw, ""));
            out.commits = read::commits(last);
            said.to_owned()
        }
        (true, plan::Reads::Names) => {
            out.names = read::names(&raw);
            read::names_text(&out.names)
        }
        (true, plan::Reads::Remotes) => {
            out.names = read::remotes(&raw);
            read::names_text(&out.names)
        }
        (_, _) => output::plain(raw.as_bytes()),
    };
    let all = [shown.trim_end(), said.trim_end()].into_iter().filter(|part| !part.is_empty());
    let all = all.collect::<Vec<_>>().join("\n");
    (out.output, out.truncated) = text::head_and_tail(&all, OUTPUT_BYTES);
    out
}

fn text_of(out: &GitOutput, report: &RunReport) -> String {
    let name = out.operation.as_str();
    let head = match (out.success, report.state, out.exit_code) {
        (true, ..) => format!("git {name} in {}: done.", out.path),
        (_, RunState::TimedOut, _) => {
            format!("git {name} took too long and was stopped; give a larger timeout_secs.")
        }
        (_, RunState::Lost, _) => {
            format!(
                "The VM went away during git {name}: look at the repository's state before you repeat it."
            )
        }
        (_, _, Some(code)) => format!("git {name} in {} failed with exit code {code}.", out.path),
        (_, _, None) => format!("git {name} was killed."),
    };
    let body = if out.output.is_empty() { "(no output)" } else { &out.output };
    output::fit(&format!("{head}\n{body}"))
}
