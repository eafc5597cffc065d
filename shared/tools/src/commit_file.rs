//! Changes one file in one run of the journal: checks what is there, writes beside it, renames, and reports. Because the
//! run is journaled, a repeated call reads the report of the first and never writes twice.

use pvm_application::edits::{self, Writer, Wrote};
use pvm_application::ports::{RunReport, RunState};
use pvm_application::ports_tools::ToolResult;
use pvm_contracts::tools::{Encoding, RunAs, WriteFileOutput};

use crate::call::{Call, Ports, Stop, result};
use crate::output;
use crate::shell::quote;

/// Seconds that writing a file may take.
const TIMEOUT_SECS: u64 = 120;
/// Bytes of a diff that are shown.
const DIFF_BYTES: usize = 12 * 1024;

/// What is to be written.
pub(crate) struct Change<'a> {
    pub(crate) path: &'a str,
    pub(crate) content: String,
    pub(crate) encoding: Encoding,
    pub(crate) mode: Option<&'a str>,
    pub(crate) owner: Option<&'a str>,
    pub(crate) append: bool,
    /// SHA-256 that the file must have, or `absent`.
    pub(crate) expected: Option<&'a str>,
    pub(crate) user: RunAs,
}

/// The whole script. What varies comes as shell variables before it. Files of another owner, and files in directories
/// that do not take new files, are written in place; all others are replaced by a rename, so that no reader ever sees
/// half a file.
const SCRIPT: &str = include_str!("scripts/commit_file.sh");

/// The same where the file shall be another's: only root may give files away, and a VM need not have sudo. The user's own
/// rights still decide what is written.
const FOR_ANOTHER: &str = include_str!("scripts/commit_file_for_another.sh");

/// Writes the change, once.
pub(crate) async fn commit<P: Ports>(
    call: &Call<'_, P>,
    change: Change<'_>,
) -> Result<WriteFileOutput, Stop> {
    let variables = [
        ("path", change.path),
        ("encoding", if change.encoding == Encoding::Base64 { "base64" } else { "text" }),
        ("mode", change.mode.unwrap_or_default()),
        ("owner", change.owner.unwrap_or_default()),
        ("append", if change.append { "1" } else { "0" }),
        ("expected", change.expected.unwrap_or_default()),
        ("run", &call.context.call_id),
    ];
    let head: Vec<String> =
        variables.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
    let head = head.join("\n");
    let mut run = if change.owner.is_some() && change.user == RunAs::User {
        let script = format!("{head}\nwrite={}\n{FOR_ANOTHER}", quote(SCRIPT));
        call.run_of(script, RunAs::Root, TIMEOUT_SECS)
    } else {
        call.run_of(format!("{head}\n{SCRIPT}"), change.user, TIMEOUT_SECS)
    };
    // The directory of the context may not be there yet.
    "/".clone_into(&mut run.working_dir);
    run.stdin = Some(change.content);
    let report = call.run(&run).await?;
    let other = note(call, &report, change.expected.is_some()).await;
    let mut out = read_report(&report, change.path)?;
    out.replaced_work_of = other;
    Ok(out)
}

/// Keeps who wrote which version, and tells both where two wrote the same file at once. Answers whose work was replaced.
/// Trouble with it does not undo the write, so it is only logged.
async fn note<P: Ports>(call: &Call<'_, P>, report: &RunReport, named_version: bool) -> Option<String> {
    let (path, wrote) = versions(report)?;
    let context = call.context;
    let writer = Writer {
        conversation_id: context.conversation_id.clone(),
        agent_id: context.agent_id.clone(),
        call_id: context.call_id.clone(),
    };
    let (store, clock) = (call.ports.store(), call.ports.ambient());
    match edits::note(store, clock, &context.project_id, &path, &writer, &wrote, named_version).await {
        Ok(other) => other,
        Err(error) => {
            tracing::warn!(
                code = error.code.as_str(),
                "who wrote a file could not be noted: {}",
                error.detail
            );
            None
        }
    }
}

/// Reads the script's report.
pub(crate) fn read_report(report: &RunReport, path: &str) -> Result<WriteFileOutput, Stop> {
    let text = String::from_utf8_lossy(&report.stdout.data).into_owned();
    let (line, diff) = text.split_once('\n').unwrap_or((&text, ""));
    let fields: Vec<&str> = line.split('\t').collect();
    match fields.as_slice() {
        ["ok", created, changed, _, sha256, size, mode, owner, target] => Ok(WriteFileOutput {
            path: (*target).to_owned(),
            created: *created == "1",
            changed: *changed == "1",
            size: size.parse().unwrap_or_default(),
            sha256: (*sha256).to_owned(),
            mode: (*mode).to_owned(),
            owner: (*owner).to_owned(),
            replacements: None,
            replaced_work_of: None,
            diff: shown_diff(diff),
        }),
        ["conflict", found, _] => Err(Stop::error(stale(path, found, diff))),
        ["fail", why @ ..] => Err(Stop::error(format!("{path} was not written: {}.", why.join(" ")))),
        _ => Err(Stop::error(match report.state {
            RunState::Lost => format!(
                "The VM went away while {path} was written: nobody knows whether it was. Read it before you repeat this."
            ),
            RunState::TimedOut => format!("Writing {path} took too long and was stopped."),
            _ => format!("{path} was not written: {}", output::plain(&report.stderr.data).trim()),
        })),
    }
}

/// The refusal of a write that was meant for another version, with what differs.
fn stale(path: &str, found: &str, diff: &str) -> String {
    let now = match found {
        "absent" => "it is not there any more".to_owned(),
        sha256 => format!("its version is {} now", output::version(sha256)),
    };
    let mut text = format!(
        "{path} was not written: somebody changed it since the version that you named; {now}. Make your change on what \
         is there now."
    );
    if let Some(diff) = shown_diff(diff) {
        text.push_str(" What is there (-) and what you wanted to write (+) differ so:\n");
        text.push_str(&diff);
    }
    output::fit(&text)
}

/// What a report tells of versions, for those who must hear of it.
fn versions(report: &RunReport) -> Option<(String, Wrote)> {
    let text = String::from_utf8_lossy(&report.stdout.data).into_owned();
    let line = text.lines().next().unwrap_or_default();
    match line.split('\t').collect::<Vec<_>>().as_slice() {
        ["ok", _, "1", before, now, _, _, _, target] => {
            let (before, now) = ((*before).to_owned(), (*now).to_owned());
            Some(((*target).to_owned(), Wrote::Written { before, now }))
        }
        ["conflict", found, target] => {
            Some(((*target).to_owned(), Wrote::Refused { found: (*found).to_owned() }))
        }
        _ => None,
    }
}

fn shown_diff(diff: &str) -> Option<String> {
    let diff = diff.trim_end_matches('\n');
    (diff.starts_with("---")).then(|| pvm_domain::text::head_and_tail(diff, DIFF_BYTES).0)
}

/// What was written, as a result.
pub(crate) fn done(out: &WriteFileOutput) -> ToolResult {
    let what = match (out.created, out.changed, out.replacements) {
        (true, ..) => "Created".to_owned(),
        (_, false, _) => "Unchanged (it had this content already):".to_owned(),
        (_, _, Some(1)) => "Replaced 1 occurrence in".to_owned(),
        (_, _, Some(count)) => format!("Replaced {count} occurrences in"),
        (_, true, None) => "Wrote".to_owned(),
    };
    let version = output::version(&out.sha256);
    let mut text = format!(
        "{what} {} ({} bytes, mode {}, {}, version {version}).",
        out.path, out.size, out.mode, out.owner
    );
    if let Some(other) = &out.replaced_work_of {
        text.push_str(&format!(
            "\nThis replaced what {other} wrote moments ago. The difference below is what it had: make sure that nothing \
             of it is lost, and name the version that you read as if_sha256 next time."
        ));
    }
    if let Some(diff) = &out.diff {
        text.push('\n');
        text.push_str(diff);
    }
    result(false, output::fit(&text), out)
}
