//! `search_files`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunAs;

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchIn {
    /// Lines of text files.
    #[default]
    Content,
    /// Names of files and directories.
    Name,
}

/// Arguments of `search_files`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchFilesArgs {
    /// What to look for: a regular expression for content, a pattern such as `*.py` or `src/**/*.ts` for names (a
    /// plain word matches names that contain it).
    pub pattern: String,
    /// File or directory to search: absolute, or relative to /workspace. Default: /workspace.
    pub path: Option<String>,
    /// `content` (the default) searches lines of text files, `name` searches names.
    #[serde(default)]
    pub search_in: SearchIn,
    /// Search only in files whose name matches this pattern, such as `*.py`.
    pub glob: Option<String>,
    /// Take the pattern as plain text instead of a regular expression. Default: false.
    #[serde(default)]
    pub literal: bool,
    /// Make no difference between upper and lower case. Default: false.
    #[serde(default)]
    pub ignore_case: bool,
    /// Lines to show before and after each match, 0 to 10. Default: 0.
    pub context_lines: Option<u32>,
    /// Most matches to return, 1 to 1000. Default: 100.
    pub max_results: Option<usize>,
    /// Search hidden files and what is usually left out: .git, node_modules, virtual environments, caches and build
    /// output. Default: false.
    #[serde(default)]
    pub include_ignored: bool,
    /// Account to search as: `user` (the default) or `root`.
    #[serde(default)]
    pub user: RunAs,
}

/// One match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SearchMatch {
    /// Path below the searched directory.
    pub path: String,
    /// Line, counted from 1; absent for names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The line's text, cut where it is long; absent for names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether this is a line around a match instead of a match.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context: bool,
}

/// What `search_files` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SearchFilesOutput {
    /// Absolute path of what was searched.
    pub path: String,
    /// The matches, in order of path and line.
    pub matches: Vec<SearchMatch>,
    /// Number of matches returned, context lines not counted.
    pub count: u64,
    /// Whether there are more.
    pub truncated: bool,
}
