//! Archives of a project's files. One may be far larger than an answer of a function can be, and take longer than a
//! request may: it is asked for, built from the stored objects with bounded memory by whoever saves workspaces, and
//! downloaded from the file store by a signed request. No VM is needed for it.

pub mod build;
pub mod create;
pub mod get;
mod pack;
