//! Output of programs, made fit for a model: plain text without escape sequences, at most 32 KiB of head and tail, and
//! where the whole is.

use pvm_application::ports::{Chunk, RunReport, RunState, VmError};
use pvm_contracts::tools::CommandOutput;
use pvm_domain::command::CommandStatus;
use pvm_domain::{limits, text};
use serde::Serialize;

use crate::call::{Call, Ports};

/// The end of a running program's output that watchers get, in bytes.
pub(crate) const PROGRESS_BYTES: usize = 4 * 1024;
/// What both streams of one result may have together; the rest of the limit is for the lines around them.
const STREAMS_BYTES: usize = limits::OUTPUT_TO_MODEL_BYTES - 1024;

/// As much of a SHA-256 as models are shown, and as write_file takes, for a file's version.
pub(crate) fn version(sha256: &str) -> &str {
    sha256.get(..16).unwrap_or(sha256)
}

/// Bytes of a program as plain text: invalid UTF-8 replaced, escape sequences and control characters dropped, and of a
/// line that was overwritten (a progress bar) only what was seen last.
pub(crate) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut line_start = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' => {
                out.push('\n');
                line_start = out.len();
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' => out.truncate(line_start),
            '\u{8}' => {
                if out.len() > line_start {
                    out.pop();
                }
            }
            '\t' => out.push('\t'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Skips what follows an escape character: a control sequence up to its final letter, or a title up to its end mark.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            for c in chars.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    break;
                }
            }
        }
        Some(']') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next();
                    break;
                }
            }
        }
        Some('(' | ')' | '#') => {
            chars.next();
        }
        _ => {}
    }
}

/// The end of both streams together, at most [`PROGRESS_BYTES`].
pub(crate) fn latest(stdout: &[u8], stderr: &[u8]) -> String {
    let out = end(&plain(stdout), PROGRESS_BYTES / 2);
    let err = end(&plain(stderr), PROGRESS_BYTES / 2);
    match (out.is_empty(), err.is_empty()) {
        (false, false) => format!("{}\n{}", out.trim_end(), err),
        (true, _) => err,
        (_, true) => out,
    }
}

/// `text` cut to what a model sees of one result.
pub(crate) fn fit(text: &str) -> String {
    // The line that says how much was cut is not counted by the cut.
    text::head_and_tail(text, limits::OUTPUT_TO_MODEL_BYTES - 64).0
}

/// The last `most` bytes of `text`, from the beginning of a line where there is one.
pub(crate) fn end(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let tail = text::tail(text, most);
    let tail = tail.find('\n').filter(|at| at + 1 < tail.len()).map_or(tail, |at| &tail[at + 1..]);
    tail.to_owned()
}

/// What a report says of the state, in words of a command.
pub(crate) fn status(state: RunState) -> CommandStatus {
    match state {
        RunState::Running => CommandStatus::Running,
        RunState::Exited => CommandStatus::Exited,
        RunState::TimedOut => CommandStatus::TimedOut,
        RunState::Killed => CommandStatus::Killed,
        RunState::Lost => CommandStatus::Lost,
    }
}

/// Both streams of a run, cut to what a model sees.
pub(crate) struct Streams {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) stdout_cut: bool,
    pub(crate) stderr_cut: bool,
}

/// Whether a report has all of a stream.
pub(crate) fn is_whole(chunk: &Chunk) -> bool {
    chunk.offset == 0 && chunk.dropped == 0 && chunk.data.len() as u64 >= chunk.total
}

/// Reads both streams of a run as head and tail. `most` bytes for both; each gets at least half of it if it needs it.
pub(crate) async fn streams<P: Ports>(
    call: &Call<'_, P>,
    run_id: &str,
    report: &RunReport,
    most: usize,
) -> Result<Streams, VmError> {
    let (out_most, err_most) = shares(report.stdout.total, report.stderr.total, most);
    let tails = if is_whole(&report.stdout) && is_whole(&report.stderr) {
        None
    } else {
        Some(call.tail(run_id, report, most as u64).await?)
    };
    let (out_tail, err_tail) = tails.unzip();
    let (stdout, stdout_cut) = one(&report.stdout, out_tail.as_deref(), out_most);
    let (stderr, stderr_cut) = one(&report.stderr, err_tail.as_deref(), err_most);
    Ok(Streams { stdout, stderr, stdout_cut, stderr_cut })
}

fn shares(stdout: u64, stderr: u64, most: usize) -> (usize, usize) {
    let (out, err) =
        (usize::try_from(stdout).unwrap_or(usize::MAX), usize::try_from(stderr).unwrap_or(usize::MAX));
    let err_most = err.min((most / 2).max(most.saturating_sub(out)));
    (most - err_most, err_most)
}

fn one(chunk: &Chunk, tail: Option<&[u8]>, most: usize) -> (String, bool) {
    if is_whole(chunk) {
        return text::head_and_tail(&plain(&chunk.data), most);
    }
    let head = plain(&chunk.data[..chunk.data.len().min(most * 6 / 10)]);
    // Bytes that are no text grow when they are replaced.
    let head = &head[..head.floor_char_boundary(most * 6 / 10)];
    let tail = plain(tail.unwrap_or_default());
    let tail = text::tail(&tail, most * 4 / 10);
    let gone = chunk.total.saturating_sub((head.len() + tail.len()) as u64);
    (format!("{head}\n[... {gone} bytes cut ...]\n{tail}"), true)
}

/// Standard error as head and tail, and where the whole is where that is not the whole.
pub(crate) async fn said<P: Ports>(
    call: &Call<'_, P>,
    run_id: &str,
    report: &RunReport,
    most: usize,
) -> Result<(String, Option<String>), VmError> {
    let tail =
        if is_whole(&report.stderr) { None } else { Some(call.tail(run_id, report, most as u64).await?.1) };
    let (text, is_cut) = one(&report.stderr, tail.as_deref(), most);
    Ok((text, is_cut.then(|| path_of(run_id, "stderr"))))
}

/// As many of `items` as fit into `room` bytes of JSON, which is what is left of it afterwards; and whether that is not
/// all of them.
pub(crate) fn fitting<T: Serialize>(items: &mut Vec<T>, room: &mut usize) -> bool {
    let size = |item: &T| serde_json::to_string(item).map_or(0, |text| text.len() + 1);
    let fits = items.iter().position(|item| match room.checked_sub(size(item)) {
        Some(left) => {
            *room = left;
            false
        }
        None => true,
    });
    if let Some(end) = fits {
        items.truncate(end);
    }
    fits.is_some()
}

/// The line that tells where the whole of something is.
pub(crate) fn whole_in(path: &str) -> String {
    format!("[The whole is in {path} in the VM; read it as root.]")
}

/// The journal's file of a stream.
pub(crate) fn path_of(run_id: &str, stream: &str) -> String {
    format!("/var/lib/pvm/runs/{run_id}/{stream}")
}

/// A run as `execute_command` and `get_command` answer it.
pub(crate) async fn command<P: Ports>(
    call: &Call<'_, P>,
    run_id: &str,
    report: &RunReport,
) -> Result<CommandOutput, VmError> {
    let streams = streams(call, run_id, report, STREAMS_BYTES).await?;
    Ok(CommandOutput {
        command_id: run_id.to_owned(),
        status: status(report.state),
        exit_code: report.exit_code,
        signal: report.signal,
        stdout_path: streams.stdout_cut.then(|| path_of(run_id, "stdout")),
        stderr_path: streams.stderr_cut.then(|| path_of(run_id, "stderr")),
        truncated: streams.stdout_cut || streams.stderr_cut,
        stdout: streams.stdout,
        stderr: streams.stderr,
        next_offset: (report.state == RunState::Running).then_some(report.stdout.total),
        duration_ms: report.duration_ms,
    })
}

/// How a command ended, in one line.
pub(crate) fn headline(output: &CommandOutput) -> String {
    let time = if output.duration_ms < 1000 {
        format!("{} ms", output.duration_ms)
    } else {
        format!("{}.{} s", output.duration_ms / 1000, output.duration_ms % 1000 / 100)
    };
    match (output.status, output.exit_code, output.signal) {
        (CommandStatus::Exited, Some(code), _) => format!("Exit code {code} after {time}."),
        (CommandStatus::Exited, None, Some(signal)) => format!("Ended by signal {signal} after {time}."),
        (CommandStatus::Exited, None, None) => format!("Ended after {time}."),
        (CommandStatus::TimedOut, ..) => format!(
            "Killed at its time limit after {time}. Give a larger timeout_secs, or run it in the background."
        ),
        (CommandStatus::Killed, ..) => format!("Killed after {time}."),
        (CommandStatus::Lost, ..) => {
            "The VM went away while it ran: its outcome is unknown, and it was not run \
                                      again. Look at what it did before you repeat it."
                .to_owned()
        }
        (CommandStatus::Running, ..) => format!("Still running after {time}."),
    }
}

/// A command's result as text.
pub(crate) fn text_of(output: &CommandOutput) -> String {
    let mut lines = vec![headline(output)];
    if !output.stdout.is_empty() {
        lines.push(output.stdout.trim_end_matches('\n').to_owned());
    }
    if !output.stderr.is_empty() {
        lines.push(format!("[stderr]\n{}", output.stderr.trim_end_matches('\n')));
    }
    if output.stdout.is_empty() && output.stderr.is_empty() && output.status != CommandStatus::Lost {
        lines.push("(no output)".to_owned());
    }
    for path in [&output.stdout_path, &output.stderr_path].into_iter().flatten() {
        lines.push(whole_in(path));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn escape_sequences_and_overwritten_lines_are_dropped() {
        assert_eq!(plain(b"\x1b[1;31mred\x1b[0m\n"), "red\n");
        assert_eq!(plain(b"\x1b]0;title\x07x\x1b]8;;u\x1b\\y"), "xy");
        assert_eq!(plain(b" 10%\r 50%\r100%\ndone\r\n"), "100%\ndone\n");
        assert_eq!(plain(b"ab\x08c\x00d\te"), "acd\te");
        assert_eq!(plain(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
        assert_eq!(plain(b"cut \x1b["), "cut ");
    }

    #[test]
    fn each_stream_gets_at_least_half_of_the_room() {
        assert_eq!(shares(10, 10, 100), (90, 10));
        assert_eq!(shares(1000, 1000, 100), (50, 50));
        assert_eq!(shares(1000, 20, 100), (80, 20));
        assert_eq!(shares(20, 1000, 100), (20, 80));
    }

    #[test]
    fn a_long_stream_shows_head_and_tail_and_how_much_is_gone() {
        let chunk =
            Chunk { data: Bytes::from(vec![b'a'; 1000]), offset: 0, next: 1000, total: 5000, dropped: 0 };
        let (text, cut) = one(&chunk, Some(&[b'z'; 200]), 100);
        assert!(cut && text.starts_with("aaa") && text.ends_with("zzz"), "{text}");
        assert!(text.contains("[... 4900 bytes cut ...]"), "{text}");
    }

    #[test]
    fn binary_output_stays_within_its_room() {
        let chunk =
            Chunk { data: Bytes::from(vec![0xff; 1000]), offset: 0, next: 1000, total: 5000, dropped: 0 };
        let (text, cut) = one(&chunk, Some(&[0xff; 200]), 100);
        assert!(cut && text.len() < 100 + 40, "{} bytes", text.len());
    }

    #[test]
    fn a_list_is_cut_where_its_room_ends() {
        let mut room = 12;
        let (mut first, mut second) = (vec!["abc", "d"], vec!["e", "f"]);
        assert!(!fitting(&mut first, &mut room));
        assert_eq!((first.len(), room), (2, 2));
        assert!(fitting(&mut second, &mut room));
        assert_eq!((second.len(), room), (0, 2));
    }

    #[test]
    fn the_end_of_a_text_starts_at_a_line() {
        assert_eq!(end("one\ntwo\nthree\n", 8), "three\n");
        assert_eq!(end("short", 8), "short");
        assert_eq!(latest(b"out\n", b"err"), "out\nerr");
    }
}
