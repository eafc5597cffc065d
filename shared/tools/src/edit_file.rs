//! `edit_file`: replaces an exact piece of a text file.

use std::time::Duration;

use pvm_application::ports::{RunState, VmFiles};
use pvm_contracts::tools::{EditFileArgs, Encoding, WriteFileOutput};
use pvm_domain::Invalid;
use sha2::{Digest, Sha256};

use crate::call::{Answer, Call, Ports, Stop};
use crate::catalogue::{Effect, Spec};
use crate::commit_file::{self, Change};
use crate::{paths, schema};

pub(crate) type Args = EditFileArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "edit_file",
    title: "Edit a file",
    description: "Replace an exact piece of a text file in the VM by another. old_string must be copied exactly from \
        the file and occur exactly once, unless replace_all is true; include lines around it to make it unique. \
        Answers the difference. When nothing was replaced, it says why and where the nearest text is.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<WriteFileOutput>,
    effect: Effect::Acts,
    destructive: true,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: true,
    long: false,
};

/// The largest file that is edited, in bytes.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The new content and the number of replacements.
///
/// # Errors
/// A text for the model.
fn replaced(content: &str, args: &Args) -> Result<(String, u64), String> {
    let (mut old, mut new) = (args.old_string.clone(), args.new_string.clone());
    if old.is_empty() {
        return Err("`old_string` must not be empty; use write_file to create a file.".to_owned());
    }
    if old == new {
        return Err("`old_string` and `new_string` are equal; nothing to do.".to_owned());
    }
    if !content.contains(&old) && content.contains("\r\n") && !old.contains('\r') {
        // Models write line feeds, also for files that have carriage returns.
        old = old.replace('\n', "\r\n");
        new = new.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    let places: Vec<usize> = content.match_indices(&old).map(|(at, _)| at).collect();
    match (places.len(), args.replace_all) {
        (0, _) => Err(not_found(content, &args.old_string)),
        (1, _) | (_, true) => Ok((content.replace(&old, &new), places.len() as u64)),
        (count, false) => {
            let lines: Vec<String> =
                places.iter().take(10).map(|at| line_of(content, *at).to_string()).collect();
            Err(format!(
                "`old_string` occurs {count} times, at lines {}. Include more of the lines around the one you mean, \
                 or set replace_all.",
                lines.join(", ")
            ))
        }
    }
}

fn line_of(content: &str, at: usize) -> usize {
    content[..at].bytes().filter(|b| *b == b'\n').count() + 1
}

/// Why a text was not found: it is there with other whitespace, or its first line is there, or nothing like it.
fn not_found(content: &str, old: &str) -> String {
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted: Vec<String> = old.trim().lines().map(squeezed).filter(|line| !line.is_empty()).collect();
    let lines: Vec<&str> = content.lines().collect();
    let start = "`old_string` is not in the file";
    let Some(first) = wanted.first() else {
        return format!("{start}: it has only whitespace.");
    };
    let excerpt = |from: usize, count: usize| {
        let to = (from + count.clamp(1, 12)).min(lines.len());
        lines[from..to].join("\n")
    };
    let window = |from: usize| {
        wanted.len() <= lines.len() - from
            && lines[from..from + wanted.len()]
                .iter()
                .zip(&wanted)
                .all(|(line, want)| squeezed(line) == *want)
    };
    if let Some(at) = (0..lines.len()).find(|at| window(*at)) {
        return format!(
            "{start} exactly, but line {} has it with other whitespace. Copy it exactly:\n{}",
            at + 1,
            excerpt(at, wanted.len())
        );
    }
    if let Some(at) = lines.iter().position(|line| squeezed(line) == *first) {
        return format!(
            "{start}. Its first line is at line {}, but what follows differs:\n{}",
            at + 1,
            excerpt(at, wanted.len())
        );
    }
    format!("{start}. Read the file again: it may have changed.")
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let path = paths::writable(call.context, args.user, "path", &args.path)?;
    // A repeated call finds the file changed already, by itself: its report says so.
    if let Some(report) = call.watch(&call.context.call_id, Duration::ZERO).await?
        && report.state != RunState::Running
    {
        return Ok(commit_file::done(&commit_file::read_report(&report, &path)?));
    }
    let bytes = match call.ports.vm().stat(call.vm_id(), &path, args.user.as_str()).await? {
        None => return Err(Stop::error(format!("There is no file {path}; use write_file to create it."))),
        Some(entry) if entry.size > FILE_BYTES => {
            return Err(Invalid::new(
                "path",
                "names a file of more than 4 MiB; use execute_command with sed",
            )
            .into());
        }
        Some(_) => call.ports.vm().read_file(call.vm_id(), &path, args.user.as_str(), FILE_BYTES).await?,
    };
    let Ok(content) = std::str::from_utf8(&bytes) else {
        return Err(Stop::error(format!("{path} is not a text file; nothing was changed.")));
    };
    let (new, count) = replaced(content, &args).map_err(|why| Stop::error(format!("{path}: {why}")))?;
    let expected = hex::encode(Sha256::digest(&bytes));
    let change = Change {
        path: &path,
        content: new,
        encoding: Encoding::Utf8,
        mode: None,
        owner: None,
        append: false,
        expected: Some(&expected),
        user: args.user,
    };
    let mut out = commit_file::commit(call, change).await?;
    out.replacements = Some(count);
    Ok(commit_file::done(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(content: &str, old: &str, new: &str, all: bool) -> Result<(String, u64), String> {
        let args = Args {
            path: "x".into(),
            old_string: old.into(),
            new_string: new.into(),
            replace_all: all,
            user: pvm_contracts::tools::RunAs::User,
        };
        replaced(content, &args)
    }

    #[test]
    fn an_exact_piece_is_replaced_once_or_everywhere() {
        assert_eq!(edit("a b c", "b", "x", false), Ok(("a x c".into(), 1)));
        assert_eq!(edit("b b", "b", "", true), Ok((" ".into(), 2)));
        assert!(edit("b\nb", "b", "x", false).unwrap_err().contains("2 times, at lines 1, 2"));
        assert!(edit("a", "a", "a", false).is_err());
        assert!(edit("a", "", "b", false).is_err());
    }

    #[test]
    fn carriage_returns_of_the_file_are_kept() {
        assert_eq!(edit("a\r\nb\r\nc", "a\nb", "x\ny", false), Ok(("x\r\ny\r\nc".into(), 1)));
    }

    #[test]
    fn a_near_miss_is_shown() {
        let content = "fn main() {\n    let x = 1;\n    let y = 2;\n}\n";
        let text = edit(content, "  let x = 1;\n  let y = 2;", "z", false).unwrap_err();
        assert!(
            text.contains("other whitespace") && text.contains("line 2") && text.contains("    let x"),
            "{text}"
        );
        let text = edit(content, "let x = 1;\nlet z = 3;", "z", false).unwrap_err();
        assert!(text.contains("first line is at line 2"), "{text}");
        assert!(edit(content, "nothing like it", "z", false).unwrap_err().contains("Read the file again"));
    }
}
