//! Reads git's machine formats. Fields are separated by the unit separator, records by the record separator: neither
//! occurs in names, and git's own quoting is out of the way.

use pvm_contracts::tools::{GitCommit, GitFile, GitName, GitStatus};

/// Commits: hash, author, address, date, subject.
pub(super) const COMMIT_FORMAT: &str = "--format=%H%x1f%an%x1f%ae%x1f%aI%x1f%s%x1e";
/// Stands before a commit that follows other output.
pub(super) const MARK: &str = "\u{1d}";
/// One commit after the mark.
pub(super) const MARKED_COMMIT_FORMAT: &str = "--format=%x1d%H%x1f%an%x1f%ae%x1f%aI%x1f%s%x1e";
/// Branches and tags: whether it is checked out, name, hash.
pub(super) const BRANCH_FORMAT: &str = "--format=%(HEAD)%1f%(refname:short)%1f%(objectname)";
/// Stashes in the form of branches.
pub(super) const STASH_FORMAT: &str = "--format= %x1f%gd%x1f%gs";

const FIELD: char = '\u{1f}';
/// Ends a commit.
pub(super) const RECORD: char = '\u{1e}';

/// `text` up to its last whole record: what git printed may be cut anywhere.
pub(super) fn whole_records(text: &str, end: char) -> &str {
    text.rfind(end).map_or("", |at| &text[..at + end.len_utf8()])
}

pub(super) fn commits(text: &str) -> Vec<GitCommit> {
    let read = |record: &str| {
        let mut fields = record.trim_start_matches('\n').split(FIELD).map(str::to_owned);
        Some(GitCommit {
            hash: fields.next().filter(|hash| !hash.is_empty())?,
            author: fields.next()?,
            email: fields.next()?,
            date: fields.next()?,
            subject: fields.next()?,
        })
    };
    text.split(RECORD).filter_map(read).collect()
}

pub(super) fn names(text: &str) -> Vec<GitName> {
    let read = |line: &str| {
        let mut fields = line.split(FIELD);
        let current = fields.next()?.trim() == "*";
        Some(GitName { name: fields.next()?.to_owned(), at: fields.next()?.to_owned(), current })
    };
    text.lines().filter_map(read).collect()
}

/// Reads `name<tab>url (fetch)` lines; the push lines say the same again unless they differ.
pub(super) fn remotes(text: &str) -> Vec<GitName> {
    let mut found: Vec<GitName> = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('\t') else { continue };
        let at = rest.rsplit_once(" (").map_or(rest, |(url, _)| url);
        if !found.iter().any(|known| known.name == name && known.at == at) {
            found.push(GitName { name: name.to_owned(), at: at.to_owned(), current: false });
        }
    }
    found
}

/// Reads `status --porcelain=v2 --branch -z`.
pub(super) fn status(text: &str) -> GitStatus {
    let mut out = GitStatus::default();
    let mut entries = text.split('\0').filter(|entry| !entry.is_empty());
    while let Some(entry) = entries.next() {
        if let Some(header) = entry.strip_prefix("# branch.") {
            take_header(&mut out, header);
            continue;
        }
        let kind = entry.as_bytes()[0];
        match kind {
            b'1' | b'2' => {
                // 1 XY sub mH mI mW hH hI path; 2 has a score before the path and the old path as the next entry.
                let fields = if kind == b'1' { 9 } else { 10 };
                let parts: Vec<&str> = entry.splitn(fields, ' ').collect();
                let (Some(states), Some(path)) = (parts.get(1), parts.get(fields - 1)) else { continue };
                let from = (kind == b'2').then(|| entries.next().unwrap_or_default().to_owned());
                let mut states = states.chars();
                let (staged, unstaged) = (states.next().unwrap_or('.'), states.next().unwrap_or('.'));
                let file = |state: char| GitFile {
                    path: (*path).to_owned(),
                    state: word(state).to_owned(),
                    from: from.clone().filter(|_| matches!(state, 'R' | 'C')),
                };
                if staged != '.' {
                    out.staged.push(file(staged));
                }
                if unstaged != '.' {
                    out.unstaged.push(file(unstaged));
                }
            }
            b'u' => {
                let path = entry.splitn(11, ' ').nth(10).unwrap_or_default();
                out.conflicted.push(plain(path, "conflicted"));
            }
            b'?' => out.untracked.push(plain(entry.get(2..).unwrap_or_default(), "untracked")),
            _ => {}
        }
    }
    out.clean = out.staged.is_empty()
        && out.unstaged.is_empty()
        && out.untracked.is_empty()
        && out.conflicted.is_empty();
    out
}

fn take_header(out: &mut GitStatus, header: &str) {
    match header.split_once(' ') {
        Some(("head", name)) if name != "(detached)" => out.branch = Some(name.to_owned()),
        Some(("upstream", name)) => out.upstream = Some(name.to_owned()),
        Some(("ab", counts)) => {
            let mut counts = counts.split(' ').filter_map(|count| count.get(1..)?.parse().ok());
            out.ahead = counts.next().unwrap_or(0);
            out.behind = counts.next().unwrap_or(0);
        }
        _ => {}
    }
}

fn plain(path: &str, state: &str) -> GitFile {
    GitFile { path: path.to_owned(), state: state.to_owned(), from: None }
}

fn word(state: char) -> &'static str {
    match state {
        'A' => "added",
        'D' => "deleted",
        'R' => "renamed",
        'C' => "copied",
        'T' => "type_changed",
        _ => "modified",
    }
}

pub(super) fn status_text(status: &GitStatus) -> String {
    let branch = status.branch.as_deref().unwrap_or("no branch (a commit is checked out)");
    let mut lines = vec![match &status.upstream {
        Some(upstream) => {
            format!("On {branch}, {} ahead and {} behind {upstream}.", status.ahead, status.behind)
        }
        None => format!("On {branch}."),
    }];
    if status.clean {
        lines.push("Nothing to commit.".to_owned());
    }
    let groups = [
        ("Conflicts", &status.conflicted),
        ("Staged", &status.staged),
        ("Changed", &status.unstaged),
        ("Untracked", &status.untracked),
    ];
    for (title, files) in groups {
        if !files.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(files.iter().map(|file| match &file.from {
                Some(from) => format!("  {} {from} -> {}", file.state, file.path),
                None => format!("  {} {}", file.state, file.path),
            }));
        }
    }
    lines.join("\n")
}

pub(super) fn commits_text(commits: &[GitCommit]) -> String {
    let line = |commit: &GitCommit| {
        let short: String = commit.hash.chars().take(10).collect();
        format!("{short} {} {}: {}", commit.date, commit.author, commit.subject)
    };
    commits.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn names_text(names: &[GitName]) -> String {
    let line = |name: &GitName| format!("{}{}\t{}", if name.current { "* " } else { "" }, name.name, name.at);
    let lines: Vec<String> = names.iter().map(line).collect();
    if lines.is_empty() { "(none)".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_with_renames_and_conflicts() {
        let text = "# branch.oid abc\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -1\0\
            1 .M N... 100644 100644 100644 h1 h2 a b.txt\0\
            2 R. N... 100644 100644 100644 h1 h2 R100 new.txt\0old.txt\0\
            u UU N... 1 2 3 4 h1 h2 h3 both.txt\0? x/\0";
        let status = status(text);
        assert_eq!(status.branch.as_deref(), Some("main"));
        assert_eq!((status.ahead, status.behind), (2, 1));
        assert_eq!(status.unstaged[0].path, "a b.txt");
        assert_eq!(status.staged[0].from.as_deref(), Some("old.txt"));
        assert_eq!(status.conflicted[0].path, "both.txt");
        assert_eq!(status.untracked[0].path, "x/");
        assert!(!status.clean);
        assert!(status_text(&status).contains("renamed old.txt -> new.txt"));
    }

    #[test]
    fn a_record_that_was_cut_is_left_out() {
        assert_eq!(whole_records("? a\0? b\0? hal", '\0'), "? a\0? b\0");
        assert_eq!(whole_records("half", '\n'), "");
    }

    #[test]
    fn an_empty_repository_is_clean() {
        let status = status("# branch.oid (initial)\0# branch.head main\0");
        assert!(status.clean);
        assert!(status_text(&status).contains("Nothing to commit"));
    }

    #[test]
    fn commits_names_and_remotes_are_read() {
        let found = commits(
            "h1\u{1f}Ann\u{1f}a@x\u{1f}2026-01-01T00:00:00Z\u{1f}first\u{1e}\nh2\u{1f}B\u{1f}b\u{1f}d\u{1f}s: t\u{1e}\n",
        );
        assert_eq!((found.len(), found[1].subject.as_str()), (2, "s: t"));
        let branches = names("*\u{1f}main\u{1f}h1\n \u{1f}dev\u{1f}h2\n");
        assert!(branches[0].current && !branches[1].current);
        let found = remotes("origin\thttps://h/r (fetch)\norigin\thttps://h/r (push)\n");
        assert_eq!((found.len(), found[0].at.as_str()), (1, "https://h/r"));
    }
}
