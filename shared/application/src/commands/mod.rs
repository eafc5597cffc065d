//! Commands of a project's VM: each runs at most once, and its record tells the truth about its end.

mod drive;
mod finish;
mod get;
mod kill;
mod run;
mod start_waiting;

pub use drive::{Live, drive};
pub use get::{get, load};
pub use kill::kill;
pub use run::{RunCommand, run};
pub use start_waiting::start_waiting;
