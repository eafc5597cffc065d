//! The adapters that all steps together need: what an embedding program must have to call any of them in process. A step's
//! own Lambda wires only its own.

use pvm_application::ports::{
    Ambient, ConnectVm, CreateVm, DeleteObject, EndVm, FindVm, GetObject, PutObject, RequestSave,
    RunCommands, SendTask, StartExecution, StopExecution, VmFiles,
};
use pvm_application::ports_model::CallModel;
use pvm_application::ports_tools::Tools;
use pvm_application::store::WriteStore;

/// Every adapter.
pub trait Wiring: Send + Sync + 'static {
    /// Records and events.
    type Store: WriteStore;
    /// File objects.
    type Objects: PutObject + GetObject + DeleteObject;
    /// The workflow engine.
    type Workflow: StartExecution + StopExecution + SendTask;
    /// The VMs.
    type Vm: CreateVm + FindVm + ConnectVm + EndVm + RunCommands + VmFiles;
    /// The models.
    type Models: CallModel;
    /// The tools.
    type Tools: Tools;
    /// Who saves workspaces.
    type Saver: RequestSave;
    /// Time and ids.
    type Ambient: Ambient;

    /// Records and events.
    fn store(&self) -> &Self::Store;
    /// File objects.
    fn objects(&self) -> &Self::Objects;
    /// The workflow engine.
    fn workflow(&self) -> &Self::Workflow;
    /// The VMs.
    fn vm(&self) -> &Self::Vm;
    /// The models.
    fn models(&self) -> &Self::Models;
    /// The tools.
    fn tools(&self) -> &Self::Tools;
    /// Who saves workspaces.
    fn saver(&self) -> &Self::Saver;
    /// Time and ids.
    fn ambient(&self) -> &Self::Ambient;
}
