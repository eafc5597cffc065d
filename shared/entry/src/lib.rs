//! The front hall of every program: settings, logs, time and ids, reading requests, writing answers, errors as users
//! and state machines see them, and the ways to run as a Lambda function.
#![warn(missing_docs)]

pub mod cors;
pub mod http;
pub mod logging;
pub mod principal;
pub mod problem;
mod providers;
pub mod reply;
pub mod request;
pub mod settings;
pub mod signer;
mod start;
pub mod step;
mod system;
pub mod ticket;
mod vm;
mod wiring;

pub use self::http::{Call, run_http, run_http_streaming};
pub use providers::{bedrock_of_environment, key_table, providers};
pub use reply::{Reply, ReplyBody};
pub use settings::Settings;
pub use signer::Signer;
pub use start::{Outcome, Start, Tools};
pub use step::{StepError, StepErrorName, call_step};
pub use system::System;
pub use vm::vm_provider;
pub use wiring::{App, Wiring};
