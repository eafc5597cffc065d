//! The VM of a project: who has it, getting it ready, and its lifecycle.

pub mod end;
pub mod lease;
pub mod provision;
pub mod ready;
pub mod recipe;
pub mod status;
pub mod terminal;

pub use end::{pause, teardown};
pub use lease::{hold, release};
pub use ready::{ReadyVm, is_refused, ready, setup};
