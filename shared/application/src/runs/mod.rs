//! Runs: the steps of `run-turn`, one file each. Every step reads, decides by the pure rules, acts, and commits by
//! condition; any of them may be repeated at any point.

mod approve;
mod begin;
mod calls;
mod compaction;
mod context;
mod continue_run;
mod draft;
mod ensure_vm;
mod fail_tool;
mod family;
mod finish;
mod in_vm;
mod kills;
mod lanes;
mod meter;
mod polls;
mod prompt;
mod run_tool;
mod shell;
mod speak;
mod step;
mod sweep;
mod think;
mod worktrees;

pub use approve::{ask_approval, expire_approval};
pub use begin::begin;
pub use continue_run::continue_run;
pub use ensure_vm::{ensure_vm, holder};
pub use fail_tool::fail_tool;
pub use finish::{execution_ended, finish_run};
pub use lanes::start_lanes;
pub use run_tool::run_tool;
pub use sweep::{is_over, sweep};
pub use think::think;

pub(crate) use approve::{decide as decide_approval, load as load_approval, send as send_approval};
pub(crate) use continue_run::start as start_execution;
pub(crate) use draft::{Draft, Extra, load_conversation, load_run};
pub(crate) use finish::{after_end, start_next};
pub(crate) use kills::{forget_killed, kill_noted};
pub(crate) use step::{TRIES, pause};
