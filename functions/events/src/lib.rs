//! What runs by itself: uploads that arrive, workspaces to save, clean-up by the clock, executions that ended badly.

pub mod cleanup;
pub mod execution_status;
pub mod notification;
pub mod save_files;
pub mod sync_files;
