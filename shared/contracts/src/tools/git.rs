//! `git_operations`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GitOperation {
    /// Copy a remote repository.
    Clone,
    /// Make a new repository.
    Init,
    /// Branch, staged, changed and untracked files.
    Status,
    /// Stage files.
    Add,
    /// Record what is staged.
    Commit,
    /// List, make or delete branches.
    Branch,
    /// Switch to a branch or commit, or restore files.
    Checkout,
    /// Merge a branch.
    Merge,
    /// Show changes.
    Diff,
    /// Show commits.
    Log,
    /// Fetch and merge from a remote.
    Pull,
    /// Send commits to a remote.
    Push,
    /// List, add, change or remove remotes.
    Remote,
    /// Put changes aside, list or take them back.
    Stash,
    /// List, make or delete tags.
    Tag,
}

impl GitOperation {
    /// The git sub-command's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Init => "init",
            Self::Status => "status",
            Self::Add => "add",
            Self::Commit => "commit",
            Self::Branch => "branch",
            Self::Checkout => "checkout",
            Self::Merge => "merge",
            Self::Diff => "diff",
            Self::Log => "log",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Remote => "remote",
            Self::Stash => "stash",
            Self::Tag => "tag",
        }
    }
}

/// What to do with a stash, remote, branch, tag or merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GitAction {
    /// Show what there is.
    List,
    /// Make it.
    Create,
    /// Delete it.
    Delete,
    /// Rename a branch or remote.
    Rename,
    /// Change a remote's URL.
    SetUrl,
    /// Put changes aside.
    Save,
    /// Take the changes back and forget the stash.
    Pop,
    /// Take the changes back and keep the stash.
    Apply,
    /// Forget a stash.
    Drop,
    /// Give a merge with conflicts up.
    Abort,
}

/// Arguments of `git_operations`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitArgs {
    /// `clone`, `init`, `status`, `add`, `commit`, `branch`, `checkout`, `merge`, `diff`, `log`, `pull`, `push`,
    /// `remote`, `stash` or `tag`.
    pub operation: GitOperation,
    /// Directory of the repository: absolute, or relative to /workspace. Default: /workspace. For clone: where to
    /// put the copy, by default a directory named like the repository.
    #[serde(alias = "repo_path", alias = "directory", alias = "working_dir")]
    pub path: Option<String>,
    /// What to do, for operations that can do several things. branch and tag: `list` (default without name), `create`
    /// (default with name), `delete`, for branch also `rename`. remote: `list`, `create`, `delete`, `rename`,
    /// `set_url`. stash: `save` (default), `list`, `pop`, `apply`, `drop`. merge: `abort`.
    pub action: Option<GitAction>,
    /// URL of the remote repository. For clone, and for remote with create or set_url.
    #[serde(alias = "repository")]
    pub url: Option<String>,
    /// Name of the remote for remote, pull and push. Default: origin.
    pub remote: Option<String>,
    /// Branch: to clone, to switch to (checkout), to merge, to pull, or to push.
    pub branch: Option<String>,
    /// Name of the branch, tag or remote to make, delete or rename.
    pub name: Option<String>,
    /// New name, for action rename.
    pub new_name: Option<String>,
    /// Commit, tag or branch: to show (log), to compare with (diff), to start from (branch, checkout, tag), or a
    /// stash such as stash@{1}.
    #[serde(alias = "ref", alias = "commit")]
    pub revision: Option<String>,
    /// Files: to stage (add; default all), to restore (checkout), to limit diff and log to, to commit directly.
    #[serde(default, alias = "paths")]
    pub files: Vec<String>,
    /// Message of the commit, merge, annotated tag or stash.
    pub message: Option<String>,
    /// Commit: also stage every changed tracked file. Branch: also list remote ones. Default: false.
    #[serde(default)]
    pub all: bool,
    /// Commit: change the last commit instead of making one. Default: false.
    #[serde(default)]
    pub amend: bool,
    /// Checkout: make the branch first. Default: false.
    #[serde(default)]
    pub create: bool,
    /// Diff: compare what is staged. Default: false.
    #[serde(default)]
    pub staged: bool,
    /// Push: overwrite the remote branch if nobody else changed it. Checkout, branch delete and tag: throw local
    /// changes away. Default: false.
    #[serde(default)]
    pub force: bool,
    /// Push: also send tags. Default: false.
    #[serde(default)]
    pub tags: bool,
    /// Pull: put local commits on top instead of merging. Default: false.
    #[serde(default)]
    pub rebase: bool,
    /// Clone and pull: fetch only this many commits. Log: show at most this many (default 20, at most 500).
    #[serde(alias = "max_count", alias = "limit")]
    pub depth: Option<u32>,
    /// Seconds until it is killed, 1 to 86400. Default: 60; 600 for clone, pull and push.
    pub timeout_secs: Option<u64>,
}

/// A file with its state in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitFile {
    /// Path from the repository's root.
    pub path: String,
    /// `added`, `modified`, `deleted`, `renamed`, `copied`, `type_changed`, `untracked` or `conflicted`.
    pub state: String,
    /// Where a renamed or copied file came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// State of a working tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitStatus {
    /// Branch, absent where none is checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Branch it follows, such as origin/main.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Commits that upstream does not have.
    pub ahead: u64,
    /// Commits of upstream that are not here.
    pub behind: u64,
    /// What the next commit would record.
    pub staged: Vec<GitFile>,
    /// Changed, but not staged.
    pub unstaged: Vec<GitFile>,
    /// New files that git does not follow.
    pub untracked: Vec<GitFile>,
    /// Files with conflicts to resolve.
    pub conflicted: Vec<GitFile>,
    /// Whether there is nothing to commit.
    pub clean: bool,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitCommit {
    /// Its hash.
    pub hash: String,
    /// Who wrote it.
    pub author: String,
    /// Their address.
    pub email: String,
    /// When it was written.
    pub date: String,
    /// First line of its message.
    pub subject: String,
}

/// A named thing of a repository: branch, tag, remote or stash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitName {
    /// Its name.
    pub name: String,
    /// Hash of the commit it is at, URL of a remote, or message of a stash.
    pub at: String,
    /// Whether it is the branch that is checked out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub current: bool,
}

/// What git did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitOutput {
    /// The operation.
    pub operation: GitOperation,
    /// Whether it succeeded.
    pub success: bool,
    /// Exit code of git.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Directory of the repository.
    pub path: String,
    /// State of the working tree (status).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<GitStatus>,
    /// Commits (log, and the new one of commit).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commits: Vec<GitCommit>,
    /// Branches, tags, remotes or stashes, where they were listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<GitName>,
    /// What git printed.
    pub output: String,
    /// Whether `output` or a list was cut.
    pub truncated: bool,
    /// File in the VM with all that git printed, if something was cut here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_path: Option<String>,
    /// Its id; get_command shows all of its output.
    pub command_id: String,
}
