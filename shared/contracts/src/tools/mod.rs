//! Arguments and results of the tools that agents and MCP clients use. The documentation of every field is what a
//! model reads in the tool's schema, so it is written for models: what the field means, its unit, what happens
//! without it. Arguments refuse unknown fields, so that a misspelt one is noticed.

mod commands;
mod files;
mod git;
mod packages;
mod search;
mod services;
mod system;

pub use commands::*;
pub use files::*;
pub use git::*;
pub use packages::*;
pub use search::*;
pub use services::*;
pub use system::*;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// As whom something is done in the VM: `user` (the default, has passwordless sudo) or `root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunAs {
    /// The ordinary account.
    #[default]
    User,
    /// The administrator.
    Root,
}

impl RunAs {
    /// The account's name in the VM.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Root => "root",
        }
    }
}
