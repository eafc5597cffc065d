//! The daemon as a process, driven over loopback as a client of E2B would.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod control;
mod files;
mod filesystem;
mod harness;
mod journal;
mod process;
