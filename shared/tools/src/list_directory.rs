//! `list_directory`: what is in a directory, with details.

use globset::{Glob, GlobBuilder, GlobMatcher};
use pvm_application::ports::{EntryKind, VmEntry, VmFiles};
use pvm_contracts::tools::{DirectoryEntry, EntryType, ListDirectoryArgs, ListDirectoryOutput};
use pvm_domain::{Invalid, Timestamp, limits};

use crate::call::{Answer, Call, Ports, Stop, result};
use crate::catalogue::{Effect, Spec};
use crate::{output, paths, rights, schema};

pub(crate) type Args = ListDirectoryArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "list_directory",
    title: "List a directory",
    description: "List files and directories of the VM with type, size, mode, owner and time of change. depth goes \
        into sub-directories, glob filters, hidden shows names that start with a dot.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<ListDirectoryOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: false,
    long: false,
};

/// The deepest listing; a search is the better tool for more.
const DEPTH_MAX: u32 = 8;

/// Permission bits as four octal digits.
pub(crate) fn octal(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

/// A time of change, to the second.
pub(crate) fn time(nanoseconds: i128) -> String {
    let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// A pattern with a slash is about the path, one without about the name alone. `*` does not cross a slash.
pub(crate) struct Pattern {
    matcher: GlobMatcher,
    whole_path: bool,
}

impl Pattern {
    pub(crate) fn parse(field: &str, text: &str, ignore_case: bool) -> Result<Self, Invalid> {
        let built: Result<Glob, _> =
            GlobBuilder::new(text).literal_separator(true).case_insensitive(ignore_case).build();
        let glob =
            built.map_err(|error| Invalid::new(field, format!("is not a pattern: {}", error.kind())))?;
        Ok(Self { matcher: glob.compile_matcher(), whole_path: text.contains('/') })
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let subject = if self.whole_path { path } else { path.rsplit('/').next().unwrap_or(path) };
        self.matcher.is_match(subject)
    }
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let path = paths::directory(call.context, args.user, "path", args.path.as_deref())?;
    let depth = args.depth.unwrap_or(1);
    if !(1..=DEPTH_MAX).contains(&depth) {
        return Err(Invalid::new("depth", "must be 1 to 8; use search_files to look further down").into());
    }
    let limit = args.limit.unwrap_or(300);
    if !(1..=1000).contains(&limit) {
        return Err(Invalid::new("limit", "must be 1 to 1000").into());
    }
    let pattern = args.glob.as_deref().map(|glob| Pattern::parse("glob", glob, false)).transpose()?;
    let (vm, user) = (call.ports.vm(), args.user.as_str());
    match vm.stat(call.vm_id(), &path, user).await? {
        None => return Err(Stop::error(format!("There is no directory {path}."))),
        Some(entry) if entry.kind == EntryKind::File => {
            return Err(Stop::error(format!("{path} is a file; use read_file.")));
        }
        Some(entry) => rights::readable(call, args.user, &path, &entry).await?,
    }
    let found = vm.list_dir(call.vm_id(), &path, user, depth).await?;
    let mut entries: Vec<DirectoryEntry> = found
        .into_iter()
        .filter_map(|entry| shown(entry, &path))
        .filter(|entry| args.hidden || !entry.path.split('/').any(|name| name.starts_with('.')))
        .filter(|entry| pattern.as_ref().is_none_or(|pattern| pattern.matches(&entry.path)))
        .collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let total = entries.len();
    entries.truncate(limit);
    let mut out = ListDirectoryOutput { path, truncated: false, total: total as u64, entries };
    let text = text_of(&mut out);
    Ok(result(false, text, &out))
}

fn shown(entry: VmEntry, root: &str) -> Option<DirectoryEntry> {
    let path = entry.path.strip_prefix(root.trim_end_matches('/')).unwrap_or(&entry.path);
    let path = path.trim_start_matches('/');
    (!path.is_empty()).then(|| DirectoryEntry {
        path: path.to_owned(),
        // E2B tells a link as what it leads to, and where it leads.
        kind: match entry.kind {
            _ if entry.symlink_target.is_some() => EntryType::Symlink,
            // A listing has none that it could not look at.
            EntryKind::File | EntryKind::Unreadable => EntryType::File,
            EntryKind::Directory => EntryType::Directory,
            EntryKind::Symlink => EntryType::Symlink,
        },
        size: entry.size,
        mode: octal(entry.mode),
        owner: format!("{}:{}", entry.owner, entry.group),
        modified_at: time(entry.modified_ns),
        target: entry.symlink_target,
    })
}

/// The listing as text; drops the entries that do not fit, so that text and data tell the same.
fn text_of(out: &mut ListDirectoryOutput) -> String {
    let mut text = match out.total {
        0 => format!("{}: nothing to show", out.path),
        1 => format!("{}: 1 entry", out.path),
        total => format!("{}: {total} entries", out.path),
    };
    let most = limits::OUTPUT_TO_MODEL_BYTES - 1024;
    let mut room = limits::TOOL_DATA_BYTES - 1024 - out.path.len().min(4096);
    output::fitting(&mut out.entries, &mut room);
    let mut fitting = 0;
    for entry in &out.entries {
        let end = match (&entry.kind, &entry.target) {
            (EntryType::Directory, _) => "/".to_owned(),
            (EntryType::Symlink, Some(target)) => format!(" -> {target}"),
            _ => String::new(),
        };
        let DirectoryEntry { mode, owner, size, modified_at, path, .. } = entry;
        let line = format!("\n{mode} {owner:<11} {size:>9} {modified_at} {path}{end}");
        if text.len() + line.len() > most {
            break;
        }
        text.push_str(&line);
        fitting += 1;
    }
    out.entries.truncate(fitting);
    let rest = out.total - fitting as u64;
    out.truncated = rest > 0;
    if out.truncated {
        use std::fmt::Write as _;
        // Writing into a String cannot fail.
        let _ = write!(text, "\n[{rest} more; narrow it with glob or path, or raise limit.]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_about_the_name_or_the_path() {
        let matches =
            |pattern: &str, path: &str| Pattern::parse("glob", pattern, false).unwrap().matches(path);
        assert!(matches("*.py", "src/app.py"));
        assert!(!matches("src/*.py", "src/deep/app.py"));
        assert!(matches("src/**/*.py", "src/deep/app.py"));
        assert!(Pattern::parse("glob", "[", false).is_err());
        assert!(Pattern::parse("glob", "README*", true).unwrap().matches("readme.md"));
    }

    #[test]
    fn modes_and_times_are_written_for_people() {
        assert_eq!(octal(0o100_644), "0644");
        assert_eq!(time(1_700_000_000_999_999_999), "2023-11-14T22:13:20Z");
    }
}
