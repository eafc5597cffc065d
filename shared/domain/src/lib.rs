//! The rules of Project VM, pure: ids, records, limits and their transitions. No IO, no clock, no randomness;
//! times and ids come in as values. Words are those of the design, one per thing.
#![warn(missing_docs)]

pub mod agent;
pub mod archive;
pub mod command;
pub mod conversation;
pub mod event;
pub mod fair_use;
pub mod file;
pub mod ids;
pub mod install;
pub mod key;
pub mod limits;
pub mod project;
pub mod secret;
pub mod service;
pub mod text;
pub mod vm;

pub use jiff::Timestamp;

/// A value that breaks a rule: which field, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field's name as the caller wrote it, dotted for nested ones.
    pub field: String,
    /// What is wrong and what would be accepted.
    pub reason: String,
}

impl Invalid {
    /// A broken rule of `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}
