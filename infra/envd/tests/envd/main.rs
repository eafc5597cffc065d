//! The daemon as a process, driven over loopback as a client of E2B would.

mod control;
mod files;
mod filesystem;
mod harness;
mod journal;
mod process;
