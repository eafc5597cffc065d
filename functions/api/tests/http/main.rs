//! The API in one process: the front, the handlers and the use cases over the real record store; objects, workflow and VM
//! are scripted. The whole system is tried elsewhere; here is what its outside promises.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod events;
mod files;
mod keys;
mod outside;
mod parts;
mod projects;
mod vm;
