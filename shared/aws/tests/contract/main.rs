//! The adapters against the embedded DynamoDB and S3: what use cases rely on, and what happens when answers are lost.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod faults;
mod objects;
mod store;
mod uploads;
