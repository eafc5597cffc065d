//! Shared harness of the suites.

pub mod aws;
