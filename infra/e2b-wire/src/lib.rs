//! The E2B protocol as Rust types, shared by the client (`pvm-sandbox`) and the servers (`pvm-sandboxd`,
//! `pvm-envd`). No IO: only shapes, framing over bytes, and signatures.
//!
//! Three families live here:
//! - the REST control plane ([`control`], [`list_query`]),
//! - the in-VM daemon's Connect services ([`process`], [`filesystem`]) with their framing ([`connect`]),
//!   file signatures ([`signature`]) and plain HTTP endpoints ([`envd_http`]),
//! - our own extensions on the daemon's port, which other E2B servers do not have: the run journal
//!   ([`journal`]), the workspace scan ([`workspace`]), and large uploads between our two programs
//!   ([`raw_upload`]).
#![warn(missing_docs)]

pub mod connect;
pub mod control;
pub mod envd_http;
pub mod errors;
pub mod filesystem;
pub mod journal;
pub mod launch;
pub mod link;
pub mod list_query;
pub mod network;
pub mod process;
pub mod proto_json;
pub mod raw_upload;
pub mod secret;
pub mod signature;
pub mod workspace;

/// Port on which the in-VM daemon is addressed, in host names and in the `E2b-Sandbox-Port` header.
pub const ENVD_PORT: u16 = 49_983;

/// Version of the daemon's protocol that we speak, as reported in `envdVersion`. Official SDKs switch features
/// by it; everything up to 0.6.13 is implemented.
pub const ENVD_VERSION: &str = "0.6.13";

/// Header naming the sandbox a data-plane request is for.
pub const HEADER_SANDBOX_ID: &str = "e2b-sandbox-id";
/// Header naming the port inside the sandbox a data-plane request is for.
pub const HEADER_SANDBOX_PORT: &str = "e2b-sandbox-port";
/// Header with the sandbox's envd access token.
pub const HEADER_ACCESS_TOKEN: &str = "x-access-token";
/// Header with the traffic access token of a sandbox whose ports are private.
pub const HEADER_TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";
/// Header with the control plane's API key.
pub const HEADER_API_KEY: &str = "x-api-key";
/// Response header of lists: cursor of the next page; absent or empty on the last one.
pub const HEADER_NEXT_TOKEN: &str = "x-next-token";
/// Response header of lists: how many sandboxes are running in all.
pub const HEADER_TOTAL_RUNNING: &str = "x-total-running";
/// Response header of our envd's `/health`: present (value `1`) when [`journal`] and [`workspace`] are served.
pub const HEADER_JOURNAL: &str = "x-pvm-journal";
/// Prefix of the request headers of `POST /files` that become extended attributes of the file.
pub const HEADER_METADATA_PREFIX: &str = "x-metadata-";
/// Request header asking for a keepalive message after so many idle seconds on a stream.
pub const HEADER_KEEPALIVE: &str = "keepalive-ping-interval";
/// Request header with the time a call may take, in milliseconds.
pub const HEADER_TIMEOUT_MS: &str = "connect-timeout-ms";
