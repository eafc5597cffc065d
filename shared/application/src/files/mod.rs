//! Files of a project: stored first, then made equal in the VM, both ways.

pub mod delete;
pub mod deleted;
pub mod expire;
mod from_vm;
pub mod get;
pub mod history;
pub mod list;
pub mod manifest;
pub mod parts;
mod plan;
pub mod restore;
pub mod save;
pub mod sync;
mod to_vm;
pub mod unstored;
pub mod upload;
