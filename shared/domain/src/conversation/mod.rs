//! Conversations: several agents work off users' messages in a project's VM.
//!
//! A message becomes a **run**; in a run agents take **turns**; a turn is a chain of **steps** (a model call, then the
//! tool calls it asks for). [`core::advance`] has all rules and no IO. What it keeps true, whatever comes in and in
//! whatever order (the property tests in `core_tests.rs` check each):
//!
//! 1. `run.finished` is told exactly once and is the run's last event; nothing but `Finish` follows it.
//! 2. Steps count 1, 2, 3 ...; the tries of a message count 1, 2, 3 ...; an answer to an older step or try is ignored.
//! 3. Every `message.created` is followed by exactly one completion or closing; every further try is told by a
//!    `message.reset` first.
//! 4. A step plans at most 10 calls; every call has an id of its own that follows from run, step and place.
//! 5. No call is run while its approval is pending, denied or expired.
//! 6. No model is called once a budget is reached or `max_turns` turns were had, and no agent's once its own budget is.
//! 7. A message that joins the run is placed exactly once, in order, and a run is never `completed` before an agent
//!    has read it.
//! 8. The same call by the same agent three times in a row stops the run, unless it only looks and sees something new.
//! 9. Of a parallel run nobody speaks before all lanes have ended and are merged; each lane is counted once, and merged
//!    once.
//! 10. A run ends: with agents that answer, and limits that are finite, `advance` reaches `Finish`.

pub mod answer;
pub mod core;
mod derived;
mod mention;
mod records;
mod turns;
mod usage;
pub mod vm_lines;

#[cfg(test)]
mod core_tests;

pub use derived::{answer_message, approval, lane_run, results_message, tool_call};
pub use mention::mentions;
pub use records::*;
pub use usage::{Budget, Usage};
