//! Shared harness of the suites: a whole stack in process, a client, and the scenarios that every form must pass.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "a harness of tests fails by panicking"
)]

pub mod api;
pub mod aws;
pub mod faulty;
pub mod process;
pub mod scenarios;
pub mod stack;
