//! A small, strict and durable interpreter of Amazon States Language.
//!
//! It runs exactly the subset of the language that this system's state machines use and refuses anything
//! else when a machine is loaded. What it runs, AWS runs in the same way. Every position is stored before
//! anything with an effect is done, so executions go on after the process was killed at any moment.

mod arn;
mod clock;
mod context;
mod dataflow;
mod definition;
mod document;
mod engine;
mod failure;
mod history;
mod invoker;
pub mod limits;
pub mod path;
mod retry;
mod server;
mod sim_clock;
mod store;
mod template;

pub use arn::Home;
pub use clock::{Clock, SystemClock, Work};
pub use definition::{DefinitionError, Machine, Problem, StateSummary};
pub use engine::{
    ApiError, EndHook, Engine, EngineBuilder, Execution, ExecutionStatus, ExecutionSummary, HistoryEvent,
    HistoryQuery, ListFilter, OpenError, Page, StartedExecution,
};
pub use invoker::{InvokeError, Invoker};
pub use retry::{Backoff, Jitter};
pub use server::{ServerOptions, router};
pub use sim_clock::{Loan, SimClock};
pub use store::{CrashPoint, StoreError};
