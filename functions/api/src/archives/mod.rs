//! Archives of a project's files.

pub mod create;
pub mod get;
