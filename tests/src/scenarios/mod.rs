//! What every form of the system must do, written once: each scenario takes an API and checks one story. The embedded
//! suites and the AWS-shaped suite run the same ones.

pub mod commands;
pub mod conversations;
pub mod fair_use;
pub mod files;
pub mod input;
pub mod mcp;
pub mod projects;
pub mod secrets;
pub mod services;
