//! The VM client against a real sandbox server: our own in this process, or another one that `PVM_TEST_E2B_URL` and
//! `PVM_TEST_E2B_KEY` name. Everything about runs is tried with both journals: envd's own and the script.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod bench;
mod failures;
mod files;
mod lifecycle;
mod runs;
mod scan;
