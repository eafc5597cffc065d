//! The interpreter, from outside: what it refuses, what it does, and what it survives.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]
#![expect(clippy::float_cmp, reason = "simulated times are exact")]

#[path = "asl/bed.rs"]
mod bed;
#[path = "asl/clock.rs"]
mod clock;
#[path = "asl/dataflow.rs"]
mod dataflow;
#[path = "asl/definitions.rs"]
mod definitions;
#[path = "asl/errors.rs"]
mod errors;
#[path = "asl/killed.rs"]
mod killed;
#[path = "asl/maps.rs"]
mod maps;
#[path = "asl/operations.rs"]
mod operations;
#[path = "asl/paths.rs"]
mod paths;
#[path = "asl/recovery.rs"]
mod recovery;
#[path = "asl/sdk.rs"]
mod sdk;
#[path = "asl/shipped.rs"]
mod shipped;
#[path = "asl/tokens.rs"]
mod tokens;
