//! The sandbox server with real sandboxes. Needs root; uses the template `host`, which takes a second to make.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "sandboxd/adoption.rs"]
mod adoption;
#[path = "sandboxd/bad_input.rs"]
mod bad_input;
#[path = "sandboxd/builds.rs"]
mod builds;
#[path = "sandboxd/egress.rs"]
mod egress;
#[path = "sandboxd/full_disk.rs"]
mod full_disk;
#[path = "sandboxd/hostile.rs"]
mod hostile;
#[path = "sandboxd/isolation.rs"]
mod isolation;
#[path = "sandboxd/killed.rs"]
mod killed;
#[path = "sandboxd/lab.rs"]
mod lab;
#[path = "sandboxd/leftovers.rs"]
mod leftovers;
#[path = "sandboxd/lifecycle.rs"]
mod lifecycle;
#[path = "sandboxd/limits.rs"]
mod limits;
#[path = "sandboxd/listing.rs"]
mod listing;
#[path = "sandboxd/plain.rs"]
mod plain;
#[path = "sandboxd/ports.rs"]
mod ports;
#[path = "sandboxd/snapshots.rs"]
mod snapshots;
#[path = "sandboxd/software.rs"]
mod software;
#[path = "sandboxd/uploads.rs"]
mod uploads;
