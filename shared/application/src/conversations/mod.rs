//! Conversations from the outside: begin one, send messages, stop it, decide on approvals, look at it.

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;

use crate::agents::CheckTools;
use crate::idempotency::Claim;

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

/// What a message that begins a run needs from outside.
#[derive(Debug)]
pub struct RunPorts<'a, S, O, W, M, A> {
    /// Records and events.
    pub store: &'a S,
    /// The workspace's files, which may define agents.
    pub objects: &'a O,
    /// The workflow engine.
    pub workflow: &'a W,
    /// The models that agents may name.
    pub models: &'a M,
    /// Clock and ids.
    pub ambient: &'a A,
    /// What checks the tools of agents that the workspace defines.
    pub check_tools: CheckTools,
}

// Derived, these would ask the ports themselves to be copied.
impl<S, O, W, M, A> Clone for RunPorts<'_, S, O, W, M, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, O, W, M, A> Copy for RunPorts<'_, S, O, W, M, A> {}

/// Who asks for something, in which project, and under which idempotency key.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// Where.
    pub project_id: &'a ProjectId,
    /// The key, if one was sent.
    pub claim: Option<&'a Claim>,
}
