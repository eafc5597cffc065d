//! The use cases of Project VM: one file each, over ports with one capability. A signature names the ports it needs,
//! and those are the permissions that its Lambda gets.

pub mod agents;
pub mod archives;
pub mod authorize;
pub mod cleanup;
pub mod commands;
pub mod conversations;
pub mod edits;
pub mod erase;
pub mod error;
pub mod events;
pub mod fair_use;
pub mod files;
pub mod idempotency;
pub mod keys;
pub mod keys_admin;
pub mod ports;
pub mod ports_model;
pub mod ports_tools;
pub mod projects;
pub mod records;
pub mod records_conversation;
pub mod runs;
pub mod secrets;
pub mod services;
pub mod signing;
pub mod store;
pub mod tool_jobs;
mod upkeep;
pub mod vm;
