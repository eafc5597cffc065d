//! Files of a project.

pub mod save;
pub mod sync;
