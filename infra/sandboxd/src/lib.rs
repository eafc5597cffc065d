//! A sandbox server that speaks E2B's protocol, on one Linux machine: no virtual machines, no container engine.
//!
//! Every sandbox is a set of namespaces with an id range of its own, an overlay root above a shared template,
//! control groups, a system call filter, and `envd` as its first process. One port serves the control plane and,
//! routed by header or host name, what runs in the sandboxes.
//!
//! [`Server::start`] runs it in process; the binary `pvm-sandboxd` runs it alone.

mod auth;
mod body;
mod client_stream;
mod clock;
mod config;
mod control;
mod egress;
mod engine;
mod envd;
mod envd_image;
mod error;
mod hops;
mod isolation;
mod proxy;
mod server;
mod store;
mod templates;

pub use auth::{Authenticate, AuthenticateFuture, Owner, StaticKeys};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{Config, DEFAULT_LIMITS, DEFAULT_LISTEN, MAX_TIMEOUT, default_template_dir};
pub use egress::{Cidr, CidrError, EgressSettings, UpstreamProxy};
pub use engine::Shutdown;
pub use error::StartError;
pub use pvm_e2b_wire::launch::LaunchLimits;
pub use server::{Server, ServerHandle};
pub use templates::{Progress, TemplateError, TemplateStatus, Templates};
