//! Files over the real parts (records, objects with their events, sandboxes) without the rest of the system, so that a
//! test decides what happens when: which event comes first, twice or late, when a workspace is saved, when a VM is lost.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "files/deleted.rs"]
mod deleted;
#[path = "files/faults.rs"]
mod faults;
#[path = "files/gaps.rs"]
mod gaps;
#[path = "files/large.rs"]
mod large;
#[path = "files/model.rs"]
mod model;
#[path = "files/rig.rs"]
mod rig;
