//! Files of a project: stored first, then made equal in the VM, both ways.

pub mod delete;
pub mod get;
pub mod list;
pub mod save;
pub mod sync;
pub mod upload;
