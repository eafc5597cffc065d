//! `read_file`: lines of a text file, or small binary files as base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use pvm_application::ports::{EntryKind, VmEntry, VmError, VmFiles};
use pvm_contracts::tools::{Encoding, ReadFileArgs, ReadFileOutput};
use pvm_domain::{Invalid, limits};
use sha2::{Digest, Sha256};

use crate::call::{Answer, Call, Ports, Stop, result};
use crate::catalogue::{Effect, Spec};
use crate::{list_directory, output, paths, rights, schema};

pub(crate) type Args = ReadFileArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "read_file",
    title: "Read a file",
    description: "Read a file of the VM. Text is returned as it is, at most 32 KiB of it: use start_line and end_line \
        for other parts of a long file. Small files that are not text come as base64. Also answers size, version \
        (the beginning of its SHA-256), mode, owner and time of change.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<ReadFileOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: false,
    long: false,
};

/// What one answer may carry of a file, in bytes; the rest of the limit is for the facts beside it.
const CONTENT_BYTES: usize = limits::OUTPUT_TO_MODEL_BYTES - 2048;
/// The most that is read of a file to find lines in it, in bytes.
const SCAN_BYTES: u64 = 64 * 1024 * 1024;
/// As much of the beginning is looked at to tell text from other bytes.
const SNIFF_BYTES: usize = 8192;

/// What a pass over a file found.
#[derive(Debug, Default)]
struct Scan {
    /// The lines asked for, up to the limit of an answer.
    kept: Vec<u8>,
    /// First bytes, whatever lines were asked for.
    head: Vec<u8>,
    /// Bytes seen.
    seen: u64,
    /// Line breaks seen.
    breaks: u64,
    /// Number of the last line that is in `kept`.
    last_kept: u64,
    /// Whether a line that was asked for did not fit.
    overflowed: bool,
    /// Whether the last byte seen was a line break.
    ends_in_break: bool,
}

impl Scan {
    /// Takes the next bytes; `range` is the lines asked for, counted from 1.
    fn take(&mut self, bytes: &[u8], range: (u64, u64), most: usize) {
        let room = SNIFF_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.seen += bytes.len() as u64;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let number = self.breaks + 1;
            if (range.0..=range.1).contains(&number) && !self.overflowed {
                let room = most - self.kept.len();
                self.overflowed = line.len() > room;
                // A line that does not fit is left out, unless it is the first: then its beginning is better than nothing.
                if !self.overflowed || self.last_kept == 0 || self.last_kept == number {
                    self.kept.extend_from_slice(&line[..line.len().min(room)]);
                    self.last_kept = number;
                }
            }
            self.ends_in_break = line.ends_with(b"\n");
            self.breaks += u64::from(self.ends_in_break);
        }
    }

    fn lines(&self) -> u64 {
        self.breaks + u64::from(self.seen > 0 && !self.ends_in_break)
    }
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let path = paths::absolute(call.context, args.user, "path", &args.path)?;
    let range = line_range(&args)?;
    let (vm, user) = (call.ports.vm(), args.user.as_str());
    let entry = vm.stat(call.vm_id(), &path, user).await?;
    let Some(entry) = entry else {
        return Err(Stop::error(format!(
            "There is no file {path}. Use list_directory or search_files to find it."
        )));
    };
    if entry.kind == EntryKind::Directory {
        return Err(Stop::error(format!("{path} is a directory; use list_directory.")));
    }
    rights::readable(call, args.user, &path, &entry).await?;
    let base64_most = CONTENT_BYTES / 4 * 3;
    let most = if args.encoding == Some(Encoding::Base64) { base64_most } else { CONTENT_BYTES };
    let (size, mut stream) = vm.read_file_stream(call.vm_id(), &path, user).await?;
    let mut scan = Scan::default();
    let mut hash = Sha256::new();
    let mut whole = true;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| VmError::Unavailable(error.into()))?;
        hash.update(&chunk);
        scan.take(&chunk, range, most);
        if scan.seen >= SCAN_BYTES {
            whole = scan.seen >= size;
            break;
        }
    }
    let facts = Facts { path, size: size.max(scan.seen), entry };
    let sha256 = whole.then(|| hex::encode(hash.finalize()));
    match args.encoding {
        Some(Encoding::Base64) => as_base64(facts, &scan, sha256, range),
        None if is_binary(&scan.head) => as_base64(facts, &scan, sha256, range),
        Some(Encoding::Utf8) | None => Ok(as_text(facts, &scan, sha256, range)),
    }
}

struct Facts {
    path: String,
    size: u64,
    entry: VmEntry,
}

impl Facts {
    fn into_output(self, content: String, encoding: Encoding, sha256: Option<String>) -> ReadFileOutput {
        ReadFileOutput {
            path: self.path,
            content,
            encoding,
            size: self.size,
            sha256,
            start_line: 0,
            end_line: 0,
            total_lines: None,
            truncated: false,
            mode: list_directory::octal(self.entry.mode),
            owner: format!("{}:{}", self.entry.owner, self.entry.group),
            modified_at: list_directory::time(self.entry.modified_ns),
        }
    }
}

fn line_range(args: &Args) -> Result<(u64, u64), Invalid> {
    let (start, end) = (args.start_line.unwrap_or(1), args.end_line.unwrap_or(u64::MAX));
    if start == 0 {
        return Err(Invalid::new("start_line", "counts from 1"));
    }
    if end < start {
        return Err(Invalid::new("end_line", "must not be before start_line"));
    }
    Ok((start, end))
}

/// A NUL or broken UTF-8 at the beginning means bytes. A character cut at the end of the sample does not count.
fn is_binary(head: &[u8]) -> bool {
    head.contains(&0) || std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some())
}

fn as_base64(facts: Facts, scan: &Scan, sha256: Option<String>, range: (u64, u64)) -> Answer {
    if facts.size > (CONTENT_BYTES / 4 * 3) as u64 || range != (1, u64::MAX) {
        return Err(Stop::error(format!(
            "{} is not text and has {} bytes; at most {} bytes can be returned as base64, and only whole. Look at it \
             with execute_command, for example `file` or `xxd | head`.",
            facts.path,
            facts.size,
            CONTENT_BYTES / 4 * 3
        )));
    }
    let out = facts.into_output(STANDARD.encode(&scan.kept), Encoding::Base64, sha256);
    let version = version(out.sha256.as_deref());
    let text = format!("{} ({} bytes, not text, as base64{version})\n{}", out.path, out.size, out.content);
    Ok(result(false, text, &out))
}

/// The file's version, for models, which see only the text.
fn version(sha256: Option<&str>) -> String {
    sha256.map_or_else(String::new, |sha256| format!(", version {}", output::version(sha256)))
}

fn as_text(
    facts: Facts,
    scan: &Scan,
    sha256: Option<String>,
    range: (u64, u64),
) -> pvm_application::ports_tools::ToolResult {
    let total = sha256.is_some().then(|| scan.lines());
    let content = String::from_utf8_lossy(&scan.kept).into_owned();
    let mut out = facts.into_output(content, Encoding::Utf8, sha256);
    out.total_lines = total;
    if scan.last_kept > 0 {
        out.start_line = range.0;
        out.end_line = scan.last_kept;
    }
    out.truncated = scan.overflowed || total.is_none_or(|total| out.end_line < total && out.size > 0);
    let lines = match (out.end_line, total) {
        (0, Some(0)) => "empty".to_owned(),
        (0, total) => {
            let has = total.map_or("fewer lines than that".to_owned(), |n| format!("{n} lines"));
            return result(false, format!("{} has {has}; none was asked for.", out.path), &out);
        }
        (last, Some(total)) => format!("lines {} to {last} of {total}", out.start_line),
        (last, None) => format!("lines {} to {last}", out.start_line),
    };
    let version = version(out.sha256.as_deref());
    let mut text = format!("{} ({} bytes, {lines}{version})\n{}", out.path, out.size, out.content);
    if scan.overflowed {
        use std::fmt::Write as _;
        // Writing into a String cannot fail.
        let _ = write!(text, "\n[The file goes on; continue with start_line={}.]", out.end_line + 1);
    }
    result(false, text, &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str, range: (u64, u64), most: usize) -> Scan {
        let mut scan = Scan::default();
        for piece in text.as_bytes().chunks(3) {
            scan.take(piece, range, most);
        }
        scan
    }

    #[test]
    fn lines_are_found_across_pieces() {
        let found = scan("one\ntwo\nthree\nfour", (2, 3), 100);
        assert_eq!((found.kept.as_slice(), found.last_kept, found.lines()), (&b"two\nthree\n"[..], 3, 4));
        assert_eq!(scan("", (1, 9), 100).lines(), 0);
        assert_eq!(scan("a\n", (1, 9), 100).lines(), 1);
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_line() {
        let mut found = Scan::default();
        found.take(b"one\ntwo\nthree\n", (1, 9), 9);
        assert_eq!((found.kept.as_slice(), found.last_kept, found.overflowed), (&b"one\ntwo\n"[..], 2, true));
        let mut long = Scan::default();
        long.take(&[b'x'; 50], (1, 9), 9);
        assert_eq!((long.kept.len(), long.last_kept, long.overflowed), (9, 1, true));
    }

    #[test]
    fn bytes_are_told_from_text() {
        assert!(is_binary(b"\x7fELF\0"));
        assert!(is_binary(b"\xff\xd8 jpeg"));
        assert!(!is_binary("é".as_bytes()));
        assert!(!is_binary(&"é".as_bytes()[..1]));
    }
}
