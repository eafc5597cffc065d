//! The embedded install: everything that a deployment on AWS has, in one process on one machine.
#![warn(missing_docs)]

pub mod agent_files;
pub mod app;
pub mod bench;
mod child;
pub mod demo;
pub mod front;
pub mod functions;
pub mod key_files;
pub mod lock;
pub mod machines;
pub mod saver;
pub mod serve;
pub mod stack;
pub mod template;
pub mod terminal;
pub mod workers;

pub use app::App;
pub use stack::{Stack, StackConfig};
