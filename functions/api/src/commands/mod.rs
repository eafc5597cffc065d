//! Commands in a project's VM.

pub mod get;
pub mod kill;
pub mod output;
pub mod run;
mod stream;
mod view;
