//! Secrets of a project.

pub mod delete;
pub mod get;
pub mod list;
pub mod put;
