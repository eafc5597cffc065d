//! The MCP door of a project: the tools of agents, the project's files and states as resources, and environment set-ups
//! as prompts, for any MCP client. Stateless Streamable HTTP, both eras of the protocol on one path.
#![warn(missing_docs)]

mod calls;
mod cancel;
mod completions;
mod http;
mod jobs;
mod metadata;
mod parts;
mod prompts;
mod resources;
mod server;
pub mod stdio;

pub use crate::http::{Doors, handle, respond};
pub use metadata::{METADATA_PATH, challenge, metadata};
pub use parts::{Mcp, Parts, Waits};
pub use server::ProjectServer;
