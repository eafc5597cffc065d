//! Connections to a sandbox's envd, over the unix sockets in the sandbox's folder.

mod client;
mod dial;
mod pool;

pub(crate) use client::{CONTROL_SOCKET, DATA_SOCKET, Envd, EnvdError};
pub(crate) use dial::DialError;
