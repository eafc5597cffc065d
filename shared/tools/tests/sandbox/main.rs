//! The tools in a real sandbox: sandbox server, VM client and records in this process. Needs root; uses the template
//! `host`, which takes a second to make, and `base` for what comes from package registries.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod everyday;
mod files;
mod git;
mod lab;
mod machine;
mod registries;
