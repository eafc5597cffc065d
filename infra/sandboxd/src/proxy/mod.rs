//! The data plane: requests for a sandbox's envd or one of its ports, passed on into the sandbox.

mod access;
mod forward;
mod refusal;
mod target;
mod tls;
mod to_envd;
mod to_port;
mod upload;

use std::net::SocketAddr;

pub(crate) use forward::serve;
pub(crate) use target::{Place, Target, target_of};

use crate::client_stream::ClientStream;

/// Who sent a request.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) stream: ClientStream,
}
