//! `git_operations`: the everyday work with a repository. Credentials are none of its business: the egress proxy adds
//! them to requests by host.

mod plan;
mod read;

use pvm_application::ports::{RunReport, RunState, VmError};
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

/// Bytes in which the record of the last commit surely is.
const COMMIT_BYTES: u64 = 64 * 1024;

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
    let out = read_report(call, &report, &args, plan.reads, path).await?;
    let mut done = result(!out.success, text_of(&out, &report), &out);
    done.output_path = out.output_path;
    Ok(done)
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
        output_path: Some(output::path_of(&context.call_id, "stdout")),
        command_id: context.call_id.clone(),
    }
}

async fn read_report<P: Ports>(
    call: &Call<'_, P>,
    report: &RunReport,
    args: &Args,
    reads: plan::Reads,
    path: String,
) -> Result<GitOutput, VmError> {
    let run_id = &call.context.call_id;
    let streams = output::streams(call, run_id, report, OUTPUT_BYTES).await?;
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
        output_path: None,
        command_id: run_id.clone(),
    };
    let reads = if out.success { reads } else { plan::Reads::Text };
    let raw = String::from_utf8_lossy(&report.stdout.data);
    let printed = match reads {
        plan::Reads::Text => streams.stdout,
        plan::Reads::LastCommit => last_commit(call, report, &streams.stdout, &mut out).await?,
        plan::Reads::Status => {
            read::status_text(out.status.insert(read::status(read::whole_records(&raw, '\0'))))
        }
        plan::Reads::Commits => {
            out.commits = read::commits(read::whole_records(&raw, read::RECORD));
            read::commits_text(&out.commits)
        }
        plan::Reads::Names => {
            out.names = read::names(read::whole_records(&raw, '\n'));
            read::names_text(&out.names)
        }
        plan::Reads::Remotes => {
            out.names = read::remotes(read::whole_records(&raw, '\n'));
            read::names_text(&out.names)
        }
    };
    let all = [printed.trim_end(), streams.stderr.trim_end()].into_iter().filter(|part| !part.is_empty());
    // Streams that were cut already bring the lines that say so.
    let (shown, is_cut) = text::head_and_tail(&all.collect::<Vec<_>>().join("\n"), OUTPUT_BYTES + 256);
    out.output = shown;
    let source_is_cut = match reads {
        plan::Reads::Text | plan::Reads::LastCommit => streams.stdout_cut,
        _ => !output::is_whole(&report.stdout),
    };
    let stdout_is_cut = fit(&mut out) || is_cut || source_is_cut;
    out.truncated = stdout_is_cut || streams.stderr_cut;
    let stream = if stdout_is_cut { "stdout" } else { "stderr" };
    out.output_path = out.truncated.then(|| output::path_of(run_id, stream));
    Ok(out)
}

/// Reads the commit that was made, which stands after a mark at the very end; answers what was printed before it.
async fn last_commit<P: Ports>(
    call: &Call<'_, P>,
    report: &RunReport,
    shown: &str,
    out: &mut GitOutput,
) -> Result<String, VmError> {
    if output::is_whole(&report.stdout) {
        let raw = String::from_utf8_lossy(&report.stdout.data);
        let (said, last) = raw.rsplit_once(read::MARK).unwrap_or((&raw, ""));
        out.commits = read::commits(last);
        return Ok(said.to_owned());
    }
    let end = call.tail(&call.context.call_id, report, COMMIT_BYTES).await?.0;
    let end = String::from_utf8_lossy(&end);
    out.commits = end.rsplit_once(read::MARK).map(|(_, last)| read::commits(last)).unwrap_or_default();
    // The commit is one line, of which only the marks are gone.
    Ok(shown.trim_end().rsplit_once('\n').map_or(shown, |(said, _)| said).to_owned())
}

/// Cuts the lists to what is left of the room for data; answers whether something is gone.
fn fit(out: &mut GitOutput) -> bool {
    let (mut commits, mut names, status) =
        (std::mem::take(&mut out.commits), std::mem::take(&mut out.names), out.status.take());
    let rest = serde_json::to_string(out).map_or(0, |text| text.len());
    // What is around the lists, the path of the whole among it.
    let mut room = limits::TOOL_DATA_BYTES.saturating_sub(rest + 1024);
    let mut is_cut = output::fitting(&mut commits, &mut room) | output::fitting(&mut names, &mut room);
    out.status = status.map(|mut status| {
        for list in [&mut status.conflicted, &mut status.staged, &mut status.unstaged, &mut status.untracked]
        {
            is_cut |= output::fitting(list, &mut room);
        }
        status
    });
    (out.commits, out.names) = (commits, names);
    is_cut
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
    let whole = out.output_path.as_deref().map(|path| format!("\n{}", output::whole_in(path)));
    output::fit(&format!("{head}\n{body}{}", whole.unwrap_or_default()))
}
