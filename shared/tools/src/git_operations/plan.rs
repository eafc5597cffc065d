//! From arguments to the words of one git command. No value can become an option: those that start with `-` are refused,
//! and where git takes `--` it gets one.

use pvm_contracts::tools::{GitAction, GitArgs, GitOperation};
use pvm_domain::Invalid;

use super::read;
use crate::shell::operand;

/// How the output of a command is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// As it is.
    Text,
    /// A working tree's state.
    Status,
    /// Commits.
    Commits,
    /// Text, a mark, and the commit that was made.
    LastCommit,
    /// Branches, tags or stashes.
    Names,
    /// Remotes.
    Remotes,
}

/// One git command, and one more after it where wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) words: Vec<String>,
    pub(super) then: Option<Vec<String>>,
    pub(super) reads: Reads,
}

/// The most commits of a log.
const LOG_MAX: u32 = 500;

struct Words(Vec<String>);

impl Words {
    fn of(words: &[&str]) -> Self {
        Self(words.iter().map(|word| (*word).to_owned()).collect())
    }
    fn flag(mut self, when: bool, word: &str) -> Self {
        if when {
            self.0.push(word.to_owned());
        }
        self
    }
    fn add(mut self, word: impl Into<String>) -> Self {
        self.0.push(word.into());
        self
    }
    fn maybe(mut self, word: Option<String>) -> Self {
        self.0.extend(word);
        self
    }
    fn files(mut self, files: &[String]) -> Result<Self, Invalid> {
        if files.iter().any(|file| file.is_empty() || file.chars().any(char::is_control)) {
            return Err(Invalid::new("files", "must have no empty names and no control characters"));
        }
        if !files.is_empty() {
            self.0.push("--".to_owned());
            self.0.extend(files.iter().cloned());
        }
        Ok(self)
    }
    fn reads(self, reads: Reads) -> Plan {
        Plan { words: self.0, then: None, reads }
    }
}

fn need(field: &str, value: Option<&String>, why: &str) -> Result<String, Invalid> {
    match value {
        Some(value) => Ok(operand(field, value)?.to_owned()),
        None => Err(Invalid::new(field, format!("is needed {why}"))),
    }
}

fn optional(field: &str, value: Option<&String>) -> Result<Option<String>, Invalid> {
    value.map(|value| operand(field, value).map(str::to_owned)).transpose()
}

/// Checks a URL of a repository: a password or token in it would be stored in the repository's configuration. Over HTTP
/// a name alone is often a token, and of no use otherwise; over SSH it is the account.
fn url(field: &str, value: Option<&String>, why: &str) -> Result<String, Invalid> {
    let url = need(field, value, why)?;
    let has_secret = url.split_once("://").is_some_and(|(scheme, rest)| {
        let user = rest.split(['/', '?', '#']).next().and_then(|host| host.rsplit_once('@'));
        let is_http = scheme.to_ascii_lowercase().starts_with("http");
        user.is_some_and(|(user, _)| is_http || user.contains(':'))
    });
    if has_secret {
        return Err(Invalid::new(
            field,
            "must not contain a password or token; store it as a secret of the project for the host",
        ));
    }
    Ok(url)
}

/// The directory that git would clone `url` into.
pub(super) fn repository_name(url: &str) -> String {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let name = last.strip_suffix(".git").unwrap_or(last);
    if name.is_empty() { "repository".to_owned() } else { name.to_owned() }
}

/// The git command that does what `args` ask.
///
/// # Errors
/// Names the argument that is missing or wrong.
pub(super) fn plan(args: &GitArgs) -> Result<Plan, Invalid> {
    let revision = optional("revision", args.revision.as_ref())?;
    let branch = optional("branch", args.branch.as_ref())?;
    let remote = optional("remote", args.remote.as_ref())?;
    let depth = || args.depth.filter(|depth| *depth > 0).map(|depth| format!("--depth={depth}"));
    let plan = match args.operation {
        GitOperation::Clone => {
            let url = url("url", args.url.as_ref(), "to clone a repository")?;
            let branch = branch.map(|branch| format!("--branch={branch}"));
            Words::of(&["clone"]).maybe(depth()).maybe(branch).add("--").add(url).reads(Reads::Text)
        }
        GitOperation::Init => {
            let first = format!("--initial-branch={}", branch.as_deref().unwrap_or("main"));
            Words::of(&["init"]).add(first).reads(Reads::Text)
        }
        GitOperation::Status => {
            Words::of(&["status", "--porcelain=v2", "--branch", "-z"]).reads(Reads::Status)
        }
        GitOperation::Add if args.files.is_empty() => Words::of(&["add", "--all"]).reads(Reads::Text),
        GitOperation::Add => Words::of(&["add"]).files(&args.files)?.reads(Reads::Text),
        GitOperation::Commit => commit(args)?,
        GitOperation::Branch => {
            branch_plan(args, branch.or(optional("name", args.name.as_ref())?), revision)?
        }
        GitOperation::Checkout => checkout(args, branch, revision)?,
        GitOperation::Merge if args.action == Some(GitAction::Abort) => {
            Words::of(&["merge", "--abort"]).reads(Reads::Text)
        }
        GitOperation::Merge => {
            let other = branch.or(revision);
            let other = need("branch", other.as_ref(), "to say what to merge")?;
            let words = Words::of(&["merge", "--no-edit"]);
            message(words, args).add("--").add(other).reads(Reads::Text)
        }
        GitOperation::Diff => {
            let words = Words::of(&["diff", "--no-color", "--no-ext-diff"]).flag(args.staged, "--cached");
            words.maybe(revision.or(branch)).files(&args.files)?.reads(Reads::Text)
        }
        GitOperation::Log => {
            let count = args.depth.unwrap_or(20).clamp(1, LOG_MAX);
            let words = Words::of(&["log"]).add(format!("--max-count={count}")).add(read::COMMIT_FORMAT);
            words.maybe(revision.or(branch)).files(&args.files)?.reads(Reads::Commits)
        }
        GitOperation::Pull => {
            let words =
                Words::of(&["pull", "--no-edit"]).add(if args.rebase { "--rebase" } else { "--no-rebase" });
            // A branch without its remote would be taken for a remote.
            let remote = remote.or_else(|| branch.as_ref().map(|_| "origin".to_owned()));
            words.maybe(depth()).maybe(remote).maybe(branch).reads(Reads::Text)
        }
        GitOperation::Push => {
            let words = Words::of(&["push", "--set-upstream"]);
            let words = words.flag(args.force, "--force-with-lease").flag(args.tags, "--tags");
            let remote = remote.unwrap_or_else(|| "origin".to_owned());
            words.add(remote).add(branch.unwrap_or_else(|| "HEAD".to_owned())).reads(Reads::Text)
        }
        GitOperation::Remote => remote_plan(args, remote)?,
        GitOperation::Stash => stash(args, revision)?,
        GitOperation::Tag => tag(args, revision)?,
    };
    Ok(plan)
}

fn message(words: Words, args: &GitArgs) -> Words {
    match &args.message {
        Some(message) => words.add("-m").add(message),
        None => words,
    }
}

fn commit(args: &GitArgs) -> Result<Plan, Invalid> {
    if args.message.as_ref().is_none_or(|message| message.trim().is_empty()) && !args.amend {
        return Err(Invalid::new("message", "is needed to commit"));
    }
    let words = Words::of(&["commit"]).flag(args.all, "--all").flag(args.amend, "--amend");
    let words = words.flag(args.amend && args.message.is_none(), "--no-edit");
    let mut plan = message(words, args).files(&args.files)?.reads(Reads::LastCommit);
    plan.then =
        Some(vec!["log".to_owned(), "--max-count=1".to_owned(), read::MARKED_COMMIT_FORMAT.to_owned()]);
    Ok(plan)
}

fn branch_plan(args: &GitArgs, name: Option<String>, revision: Option<String>) -> Result<Plan, Invalid> {
    let action = args.action.unwrap_or(if name.is_some() { GitAction::Create } else { GitAction::List });
    let name = || need("name", name.as_ref(), "to say which branch");
    Ok(match action {
        GitAction::List => Words::of(&["for-each-ref", read::BRANCH_FORMAT, "refs/heads"])
            .flag(args.all, "refs/remotes")
            .reads(Reads::Names),
        GitAction::Create => {
            Words::of(&["branch"]).flag(args.force, "--force").add(name()?).maybe(revision).reads(Reads::Text)
        }
        GitAction::Delete => Words::of(&["branch", "--delete"])
            .flag(args.force, "--force")
            .add("--")
            .add(name()?)
            .reads(Reads::Text),
        GitAction::Rename => {
            let new = need("new_name", args.new_name.as_ref(), "to rename a branch")?;
            Words::of(&["branch", "--move"]).add(name()?).add(new).reads(Reads::Text)
        }
        _ => return Err(Invalid::new("action", "must be list, create, delete or rename for branch")),
    })
}

fn checkout(args: &GitArgs, branch: Option<String>, revision: Option<String>) -> Result<Plan, Invalid> {
    if !args.files.is_empty() {
        return Ok(Words::of(&["checkout"])
            .maybe(revision.or(branch))
            .files(&args.files)?
            .reads(Reads::Text));
    }
    if args.create {
        let name = branch.or(optional("name", args.name.as_ref())?);
        let name = need("branch", name.as_ref(), "to make a branch")?;
        return Ok(Words::of(&["checkout", "-b"]).add(name).maybe(revision).reads(Reads::Text));
    }
    let to = need("branch", branch.or(revision).as_ref(), "to say what to switch to")?;
    Ok(Words::of(&["checkout"]).flag(args.force, "--force").add(to).add("--").reads(Reads::Text))
}

fn remote_plan(args: &GitArgs, remote: Option<String>) -> Result<Plan, Invalid> {
    let name = remote.or(optional("name", args.name.as_ref())?);
    let action = args.action.unwrap_or(if args.url.is_some() { GitAction::Create } else { GitAction::List });
    let name = || Ok::<_, Invalid>(name.clone().unwrap_or_else(|| "origin".to_owned()));
    let url = || url("url", args.url.as_ref(), "for a remote");
    Ok(match action {
        GitAction::List => Words::of(&["remote", "--verbose"]).reads(Reads::Remotes),
        GitAction::Create => Words::of(&["remote", "add", "--"]).add(name()?).add(url()?).reads(Reads::Text),
        GitAction::SetUrl => {
            Words::of(&["remote", "set-url", "--"]).add(name()?).add(url()?).reads(Reads::Text)
        }
        GitAction::Delete => Words::of(&["remote", "remove", "--"]).add(name()?).reads(Reads::Text),
        GitAction::Rename => {
            let new = need("new_name", args.new_name.as_ref(), "to rename a remote")?;
            Words::of(&["remote", "rename", "--"]).add(name()?).add(new).reads(Reads::Text)
        }
        _ => {
            return Err(Invalid::new("action", "must be list, create, delete, rename or set_url for remote"));
        }
    })
}

fn stash(args: &GitArgs, revision: Option<String>) -> Result<Plan, Invalid> {
    let words = |verb: &str| Words::of(&["stash", verb]).maybe(revision.clone()).reads(Reads::Text);
    Ok(match args.action.unwrap_or(GitAction::Save) {
        GitAction::Save | GitAction::Create => {
            let words = Words::of(&["stash", "push", "--include-untracked"]);
            message(words, args).files(&args.files)?.reads(Reads::Text)
        }
        GitAction::List => Words::of(&["stash", "list", read::STASH_FORMAT]).reads(Reads::Names),
        GitAction::Pop => words("pop"),
        GitAction::Apply => words("apply"),
        GitAction::Drop | GitAction::Delete => words("drop"),
        _ => return Err(Invalid::new("action", "must be save, list, pop, apply or drop for stash")),
    })
}

fn tag(args: &GitArgs, revision: Option<String>) -> Result<Plan, Invalid> {
    let action = args.action.unwrap_or(if args.name.is_some() { GitAction::Create } else { GitAction::List });
    let name = || need("name", args.name.as_ref(), "to say which tag");
    Ok(match action {
        GitAction::List => Words::of(&["for-each-ref", read::BRANCH_FORMAT, "refs/tags"]).reads(Reads::Names),
        GitAction::Create => {
            let words =
                Words::of(&["tag"]).flag(args.force, "--force").flag(args.message.is_some(), "--annotate");
            message(words, args).add("--").add(name()?).maybe(revision).reads(Reads::Text)
        }
        GitAction::Delete => Words::of(&["tag", "--delete", "--"]).add(name()?).reads(Reads::Text),
        _ => return Err(Invalid::new("action", "must be list, create or delete for tag")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(args: serde_json::Value) -> String {
        plan(&serde_json::from_value(args).unwrap()).unwrap().words.join(" ")
    }

    fn refused(args: serde_json::Value) -> String {
        plan(&serde_json::from_value(args).unwrap()).unwrap_err().field
    }

    #[test]
    fn each_operation_has_its_command() {
        for (args, wanted) in [
            (
                json!({"operation": "clone", "url": "https://h/a/b.git", "depth": 1, "branch": "dev"}),
                "clone --depth=1 --branch=dev -- https://h/a/b.git",
            ),
            (json!({"operation": "init"}), "init --initial-branch=main"),
            (json!({"operation": "add"}), "add --all"),
            (json!({"operation": "add", "paths": ["-x"]}), "add -- -x"),
            (json!({"operation": "commit", "message": "a b", "all": true}), "commit --all -m a b"),
            (json!({"operation": "commit", "amend": true}), "commit --amend --no-edit"),
            (json!({"operation": "branch", "name": "x", "revision": "main"}), "branch x main"),
            (json!({"operation": "branch", "action": "delete", "name": "x"}), "branch --delete -- x"),
            (
                json!({"operation": "branch", "action": "rename", "name": "x", "new_name": "y"}),
                "branch --move x y",
            ),
            (json!({"operation": "checkout", "branch": "x", "create": true}), "checkout -b x"),
            (json!({"operation": "checkout", "branch": "x"}), "checkout x --"),
            (json!({"operation": "checkout", "files": ["a"]}), "checkout -- a"),
            (json!({"operation": "merge", "branch": "x"}), "merge --no-edit -- x"),
            (json!({"operation": "merge", "action": "abort"}), "merge --abort"),
            (
                json!({"operation": "diff", "staged": true, "files": ["a"]}),
                "diff --no-color --no-ext-diff --cached -- a",
            ),
            (json!({"operation": "pull", "branch": "x", "rebase": true}), "pull --no-edit --rebase origin x"),
            (
                json!({"operation": "push", "force": true}),
                "push --set-upstream --force-with-lease origin HEAD",
            ),
            (json!({"operation": "remote", "url": "https://h/r"}), "remote add -- origin https://h/r"),
            (json!({"operation": "stash"}), "stash push --include-untracked"),
            (json!({"operation": "stash", "action": "pop", "ref": "stash@{1}"}), "stash pop stash@{1}"),
            (json!({"operation": "tag", "name": "v1", "message": "m"}), "tag --annotate -m m -- v1"),
        ] {
            assert_eq!(words(args.clone()), wanted, "{args}");
        }
    }

    #[test]
    fn what_is_missing_or_dangerous_is_named() {
        assert_eq!(refused(json!({"operation": "clone"})), "url");
        assert_eq!(refused(json!({"operation": "clone", "url": "--upload-pack=x"})), "url");
        for url in ["https://me:token@h/x", "https://ghp_xxx@h/x", "HTTP://ghp_xxx@h", "ssh://me:word@h/x"] {
            assert_eq!(refused(json!({"operation": "clone", "url": url})), "url", "{url}");
            assert_eq!(refused(json!({"operation": "remote", "url": url})), "url", "{url}");
        }
        for url in ["ssh://git@h/x", "git@h:a/x.git", "https://h/a@b/x", "/srv/a@b"] {
            assert_eq!(words(json!({"operation": "clone", "url": url})), format!("clone -- {url}"));
        }
        assert_eq!(refused(json!({"operation": "commit"})), "message");
        assert_eq!(refused(json!({"operation": "checkout"})), "branch");
        assert_eq!(refused(json!({"operation": "merge", "branch": "-x"})), "branch");
        assert_eq!(refused(json!({"operation": "branch", "action": "pop", "name": "x"})), "action");
    }

    #[test]
    fn a_clone_is_named_like_its_repository() {
        assert_eq!(repository_name("https://h/a/web-app.git"), "web-app");
        assert_eq!(repository_name("git@h:a/b.git/"), "b");
        assert_eq!(repository_name("/"), "repository");
    }
}
