//! The HTTP API: one handler per route, one table of routes, and the front that serves them in one process.
#![warn(missing_docs)]

pub mod agents;
pub mod archives;
pub mod commands;
pub mod conversations;
pub mod events;
pub mod files;
pub mod health;
pub mod keys;
pub mod limits;
mod live;
pub mod mcp;
pub mod metadata;
mod once;
pub mod openapi;
mod output;
mod pages;
pub mod projects;
pub mod router;
pub mod routes;
pub mod secrets;
pub mod services;
mod sse;
pub mod vm;
