//! The daemon inside a sandbox: processes, terminals, files, watches and ports, over E2B's data plane, plus the
//! run journal and the workspace scan. See `README.md` for the contract with the sandbox server.
//!
//! Everything runs on one single-threaded tokio runtime, so that starting a process and registering it with
//! the [`reaper`] is one step that no exit can come between. File work goes to the blocking pool.
#![warn(missing_docs)]

pub mod accounts;
pub mod control;
pub mod daemon;
pub mod disk_guard;
pub mod egress;
pub mod files;
pub mod filesystem;
pub mod http;
pub mod journal;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod options;
pub mod paths;
pub mod process;
mod readiness;
pub mod reaper;
pub mod router;
pub mod sandbox_init;
pub mod server;
pub mod workspace;
