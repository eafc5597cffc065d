//! What the server keeps on disk, and where.

mod files;
mod layout;
mod record;

pub(crate) use files::{append_json, append_line, read_json, read_last_json, write_json};
pub(crate) use layout::{Layout, Lock, SandboxFolder, remove_tree};
pub(crate) use record::{Authority, PauseKind, Phase, Record, RecordedProcess};
