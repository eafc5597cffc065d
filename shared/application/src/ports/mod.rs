//! What use cases need from outside, one capability to a trait.

mod objects;
mod runs;
mod secrets;
mod terminals;
mod vm;
mod vm_files;
mod workflows;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use pvm_domain::Timestamp;
use pvm_domain::ids::{PrefixedId, ProjectId};

pub use objects::{
    DeleteObject, GetObject, ObjectError, ObjectInfo, PresignObject, Presigned, PutObject, UploadParts,
    UploadedPart,
};
pub use runs::{Chunk, ReadFrom, RunCommands, RunReport, RunSpec, RunState};
pub use secrets::{KeepSecrets, ReadSecrets, SecretError, SecretValue};
pub use terminals::{NewTerminal, TerminalEvent, TerminalSize, TerminalStream, Terminals};
pub use vm::{
    ConnectVm, CreateVm, EndVm, FindVm, HeaderRule, NewVm, SetEgress, VmError, VmInfo, VmTraits, VmUse,
};
pub use vm_files::{EntryKind, NewContent, NewEntry, VmEntry, VmFiles};
pub use workflows::{Machine, SendTask, StartExecution, Started, StopExecution, WorkflowError};

/// The time. Injected, so that tests decide it.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// Makes ids.
pub trait NewId: Send + Sync {
    /// A new id; ids made later sort later.
    fn new_id<I: PrefixedId>(&self) -> I;
}

/// Clock and ids together, which nearly every use case needs.
pub trait Ambient: Clock + NewId {}
impl<T: Clock + NewId> Ambient for T {}

/// A stream of bytes of any length.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Asks for a project's workspace to be saved soon. Many requests within a few seconds make one save.
pub trait RequestSave: Send + Sync {
    /// Asks for an archive of the workspace to be built. Unlike a save it is asked for once, so a failure is told.
    fn request_archive(
        &self,
        _project_id: &ProjectId,
        _archive_id: &pvm_domain::ids::ArchiveId,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send {
        async { Err(WorkflowError::Unavailable(anyhow::anyhow!("nobody builds archives here"))) }
    }
    /// Notes that something under the workspace may have changed in the VM.
    fn request_save(&self, project_id: &pvm_domain::ids::ProjectId) -> impl Future<Output = ()> + Send;
}

/// Everything that one VM client can do, for use cases that need most of it.
pub trait VmAccess: ConnectVm + RunCommands + VmFiles {}
impl<T: ConnectVm + RunCommands + VmFiles> VmAccess for T {}
