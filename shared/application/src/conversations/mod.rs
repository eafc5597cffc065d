//! Conversations from the outside: begin one, send messages, stop it, decide on approvals, look at it.

pub(crate) mod cancel;
mod create;
mod decide;
mod find;
mod fork;
mod get;
mod new_run;
mod send;

pub(crate) use new_run::unpriced;

pub use cancel::cancel;
pub use create::create;
pub use decide::decide;
pub use find::find;
pub use fork::fork;
pub use get::{get, list, view};
pub use send::send;
