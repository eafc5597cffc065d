//! Event logs, as pages and as streams, and tickets for clients that cannot send headers.

pub mod conversation;
mod log;
pub mod project;
pub mod ticket;
