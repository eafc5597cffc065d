//! Runs over the shipped state machine, the interpreter, and DynamoDB in memory; the model, the tools and the VM are
//! scripted, and time is simulated. What is tried here is that nothing is lost and nothing done twice.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "runs/approvals.rs"]
mod approvals;
#[path = "runs/control.rs"]
mod control;
#[path = "runs/cost.rs"]
mod cost;
#[path = "runs/crashes.rs"]
mod crashes;
#[path = "runs/edits.rs"]
mod edits;
#[path = "runs/failing.rs"]
mod failing;
#[path = "runs/faults.rs"]
mod faults;
#[path = "runs/rig/mod.rs"]
mod rig;
#[path = "runs/talk.rs"]
mod talk;
#[path = "runs/watching.rs"]
mod watching;
