//! Interactive terminals of a VM.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;

use super::vm::VmError;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A terminal to open.
#[derive(Debug, Clone)]
pub struct NewTerminal {
    /// The name by which it is found again.
    pub terminal_id: String,
    /// `user` or `root`.
    pub user: String,
    /// Absolute directory.
    pub working_dir: String,
    /// Its size.
    pub size: TerminalSize,
}

/// What comes from a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalEvent {
    /// Output, as the program wrote it.
    Output(Bytes),
    /// Its shell has ended; nothing comes after this.
    Exit {
        /// Its exit code; -1 where a signal ended it.
        exit_code: i32,
    },
}

/// What comes from a terminal, in order.
pub type TerminalStream = Pin<Box<dyn Stream<Item = Result<TerminalEvent, VmError>> + Send>>;

/// Interactive terminals of a VM. They live as long as their shell, whoever watches.
pub trait Terminals: Send + Sync {
    /// Opens a terminal with a login shell.
    fn open_terminal(
        &self,
        vm_id: &str,
        terminal: &NewTerminal,
    ) -> impl Future<Output = Result<TerminalStream, VmError>> + Send;
    /// Watches a terminal that was opened before: what it has kept of its output first, then what comes.
    fn attach_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
    ) -> impl Future<Output = Result<TerminalStream, VmError>> + Send;
    /// Types into it.
    fn type_into(
        &self,
        vm_id: &str,
        terminal_id: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Changes its size.
    fn resize_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
        size: TerminalSize,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
    /// Ends it with all its processes; one that has ended is fine.
    fn end_terminal(
        &self,
        vm_id: &str,
        terminal_id: &str,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
}
