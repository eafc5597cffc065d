//! Every adapter at once: what a program that embeds all routes and steps has. A Lambda function wires only its own.

use pvm_application::ports::{
    Ambient, ConnectVm, CreateVm, DeleteObject, EndVm, FindVm, GetObject, KeepSecrets, PresignObject,
    PutObject, ReadSecrets, RequestSave, RunCommands, SendTask, SetEgress, StartExecution, StopExecution,
    UploadParts, VmFiles,
};
use pvm_application::ports_model::CallModel;
use pvm_application::ports_tools::Tools;
use pvm_application::store::WriteStore;

use pvm_aws::FileSecrets;

use crate::settings::Settings;
use crate::signer::Signer;

/// Every adapter. Each is cheap to clone.
pub trait Wiring: Send + Sync + 'static {
    /// Records and events.
    type Store: WriteStore + Clone + 'static;
    /// File objects.
    type Objects: PutObject + GetObject + DeleteObject + PresignObject + UploadParts + Clone + 'static;
    /// The workflow engine.
    type Workflow: StartExecution + StopExecution + SendTask + Clone + 'static;
    /// The VMs.
    type Vm: CreateVm + FindVm + ConnectVm + EndVm + RunCommands + VmFiles + SetEgress + Clone + 'static;
    /// Values of projects' secrets.
    type Secrets: ReadSecrets + KeepSecrets + Clone + 'static;
    /// The models.
    type Models: CallModel;
    /// The tools.
    type Tools: Tools;
    /// Who saves workspaces.
    type Saver: RequestSave + Clone + 'static;
    /// Time and ids.
    type Ambient: Ambient + Clone + 'static;

    /// The process's settings.
    fn settings(&self) -> &Settings;
    /// Signs cursors and tickets.
    fn signer(&self) -> &Signer;
    /// Records and events.
    fn store(&self) -> &Self::Store;
    /// File objects.
    fn objects(&self) -> &Self::Objects;
    /// The workflow engine.
    fn workflow(&self) -> &Self::Workflow;
    /// The VMs.
    fn vm(&self) -> &Self::Vm;
    /// Values of projects' secrets.
    fn secrets(&self) -> &Self::Secrets;
    /// The models.
    fn models(&self) -> &Self::Models;
    /// The tools.
    fn tools(&self) -> &Self::Tools;
    /// Who saves workspaces.
    fn saver(&self) -> &Self::Saver;
    /// Time and ids.
    fn ambient(&self) -> &Self::Ambient;
}

/// All adapters, as one value.
#[derive(Debug, Clone)]
pub struct App<S, O, W, V, M, T, R, A> {
    /// The process's settings.
    pub settings: Settings,
    /// Signs cursors and tickets.
    pub signer: Signer,
    /// Records and events.
    pub store: S,
    /// File objects.
    pub objects: O,
    /// The workflow engine.
    pub workflow: W,
    /// The VMs.
    pub vm: V,
    /// Values of projects' secrets.
    pub secrets: FileSecrets,
    /// The models.
    pub models: M,
    /// The tools.
    pub tools: T,
    /// Who saves workspaces.
    pub saver: R,
    /// Time and ids.
    pub ambient: A,
}

impl<S, O, W, V, M, T, R, A> Wiring for App<S, O, W, V, M, T, R, A>
where
    S: WriteStore + Clone + 'static,
    O: PutObject + GetObject + DeleteObject + PresignObject + UploadParts + Clone + 'static,
    W: StartExecution + StopExecution + SendTask + Clone + 'static,
    V: CreateVm + FindVm + ConnectVm + EndVm + RunCommands + VmFiles + SetEgress + Clone + 'static,
    M: CallModel + 'static,
    T: Tools + 'static,
    R: RequestSave + Clone + 'static,
    A: Ambient + Clone + 'static,
{
    type Store = S;
    type Objects = O;
    type Workflow = W;
    type Vm = V;
    type Secrets = FileSecrets;
    type Models = M;
    type Tools = T;
    type Saver = R;
    type Ambient = A;

    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn signer(&self) -> &Signer {
        &self.signer
    }
    fn store(&self) -> &S {
        &self.store
    }
    fn objects(&self) -> &O {
        &self.objects
    }
    fn workflow(&self) -> &W {
        &self.workflow
    }
    fn vm(&self) -> &V {
        &self.vm
    }
    fn secrets(&self) -> &FileSecrets {
        &self.secrets
    }
    fn models(&self) -> &M {
        &self.models
    }
    fn tools(&self) -> &T {
        &self.tools
    }
    fn saver(&self) -> &R {
        &self.saver
    }
    fn ambient(&self) -> &A {
        &self.ambient
    }
}
