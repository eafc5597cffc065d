//! The data plane: requests for a sandbox's envd or one of its ports, passed on into the sandbox.

mod access;
mod forward;
mod refusal;
mod target;
mod tls;

pub(crate) use forward::serve;
pub(crate) use target::{Target, target_of};
