//! The client of E2B's protocol: makes VMs, runs commands exactly once through the run journal, moves files. It works
//! with our own server, self-hosted E2B and E2B's cloud; what our envd can do beyond the protocol is found out by asking.
#![warn(missing_docs)]

mod access;
mod bulk;
mod client;
mod config;
mod control;
mod egress;
mod envd;
mod files;
mod process;
mod runs;
mod script_journal;
mod script_scan;
mod terminal;
mod workspace;

pub use client::VmClient;
pub use config::VmClientConfig;
