//! The steps of the state machines, one Lambda function each; the table of them in [`steps`].
#![warn(missing_docs)]

pub mod lifecycle;
pub mod run_turn;
pub mod steps;

pub use pvm_entry::Wiring;
