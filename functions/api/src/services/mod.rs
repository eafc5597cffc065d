//! Services of a project.

pub mod list;
pub mod logs;
pub mod start;
pub mod stop;
