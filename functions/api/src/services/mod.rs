//! Services of a project.

mod follow;
pub mod link;
pub mod list;
pub mod logs;
pub mod revoke;
pub mod start;
pub mod stop;
