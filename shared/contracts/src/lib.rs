//! What crosses a wire: HTTP bodies, step inputs and outputs, tool arguments, events. Plain data, no IO.
#![warn(missing_docs)]

pub mod agents;
pub mod commands;
pub mod conversations;
pub mod events;
pub mod fair_use;
pub mod files;
pub mod health;
pub mod keys;
pub mod lifecycle;
pub mod list;
pub mod problem;
pub mod projects;
pub mod secrets;
pub mod services;
pub mod steps;
pub(crate) mod time;
pub mod tools;
pub mod vm;

/// The body of a request that needs none: absent, or `{}`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Empty {}
