//! What the server needs from outside.

use std::time::Duration;

use pvm_application::ports::{
    Ambient, ConnectVm, GetObject, RequestSave, RunCommands, StartExecution, VmFiles,
};
use pvm_application::store::WriteStore;
use pvm_domain::limits;
use pvm_entry::Signer;
use pvm_tools::{Ports, Registry};

/// How long a request waits for a tool.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// When nobody watches: what a gateway allows.
    pub quiet: Duration,
    /// When the client asked for progress, and so sees that the tool works.
    pub watched: Duration,
    /// Before a client that knows tasks gets one.
    pub task: Duration,
    /// Between two looks at a tool that is watched.
    pub look: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(limits::HTTP_INLINE_WAIT_SECS),
            watched: Duration::from_mins(10),
            task: Duration::from_secs(2),
            look: Duration::from_secs(2),
        }
    }
}

/// The server's adapters and settings. One is made per process.
#[derive(Debug)]
pub struct Mcp<S, O, W, V, R, A> {
    /// The tools, with the records, workflows, VM and clock that they use.
    pub tools: Registry<S, W, V, A>,
    /// File objects.
    pub objects: O,
    /// Saves of the workspace.
    pub saver: R,
    /// Signs the cursors of lists.
    pub signer: Signer,
    /// How long a request waits.
    pub waits: Waits,
}

/// [`Mcp`] as the server's code sees it: everything behind one type.
pub trait Parts: Send + Sync + 'static {
    /// Records, workflows, VM, clock and ids.
    type Tools: Ports + pvm_application::ports_tools::Tools;
    /// File objects.
    type Objects: GetObject;
    /// Saves of the workspace.
    type Saver: RequestSave;
    /// The tools.
    fn tools(&self) -> &Self::Tools;
    /// File objects.
    fn objects(&self) -> &Self::Objects;
    /// Saves of the workspace.
    fn saver(&self) -> &Self::Saver;
    /// Signs the cursors of lists.
    fn signer(&self) -> &Signer;
    /// How long a request waits.
    fn waits(&self) -> Waits;
}

impl<S, O, W, V, R, A> Parts for Mcp<S, O, W, V, R, A>
where
    S: WriteStore + 'static,
    O: GetObject + 'static,
    W: StartExecution + 'static,
    V: RunCommands + VmFiles + ConnectVm + 'static,
    R: RequestSave + 'static,
    A: Ambient + 'static,
{
    type Tools = Registry<S, W, V, A>;
    type Objects = O;
    type Saver = R;
    fn tools(&self) -> &Self::Tools {
        &self.tools
    }
    fn objects(&self) -> &O {
        &self.objects
    }
    fn saver(&self) -> &R {
        &self.saver
    }
    fn signer(&self) -> &Signer {
        &self.signer
    }
    fn waits(&self) -> Waits {
        self.waits
    }
}
