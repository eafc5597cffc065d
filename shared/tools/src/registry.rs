//! The registry: every tool by name, run over the ports.

use std::sync::LazyLock;
use std::time::Duration;

use pvm_application::ports::{Ambient, ConnectVm, RunCommands, StartExecution, VmError, VmFiles};
use pvm_application::ports_tools::{ToolContext, ToolDefinition, ToolProgress, ToolResult, Tools};
use pvm_application::store::WriteStore;
use serde_json::Value;

use crate::call::{Answer, Call, Mode, Ports, Stop, progress};
use crate::catalogue::{self, Spec};
use crate::{arguments, get_command};

macro_rules! tools {
    ($($tool:ident),* $(,)?) => {
        /// Every tool's definition, in the order in which they are shown.
        pub(crate) const SPECS: &[Spec] = &[$(crate::$tool::SPEC),*];

        async fn drive<P: Ports>(call: &Call<'_, P>, name: &str, given: &Value) -> Answer {
            let Some(entry) = catalogue::entry(name) else { return Err(unknown(name)) };
            let schema = &entry.definition.input_schema;
            $(
                if name == crate::$tool::SPEC.name {
                    let args: crate::$tool::Args = arguments::read(name, schema, given).map_err(Stop::error)?;
                    // Boxed: the largest tool's state would otherwise be part of every call's.
                    return Box::pin(crate::$tool::drive(call, args)).await;
                }
            )*
            Err(unknown(name))
        }
    };
}

tools!(
    execute_command,
    get_command,
    kill_command,
    read_file,
    write_file,
    edit_file,
    list_directory,
    search_files,
    install_package,
    start_service,
    stop_service,
    list_services,
    service_logs,
    git_operations,
    get_system_info,
    create_development_environment,
);

fn unknown(name: &str) -> Stop {
    let names: Vec<&str> = SPECS.iter().map(|spec| spec.name).collect();
    let shown: String = name.chars().take(64).collect();
    Stop::error(format!("There is no tool {shown:?}. The tools are: {}.", names.join(", ")))
}

/// What is known of a call that still runs, as data of the tool's own output schema, with the end of its `output` so
/// far. `None` for tools that never take long.
pub fn running(context: &ToolContext, name: &str, given: &Value, output: String) -> Option<Value> {
    let schema = &catalogue::entry(name)?.definition.input_schema;
    macro_rules! of {
        ($($tool:ident),*) => {
            match name {
                $(n if n == crate::$tool::SPEC.name => {
                    let args: crate::$tool::Args = arguments::read(name, schema, given).ok()?;
                    serde_json::to_value(crate::$tool::running(context, args, output)).ok()
                })*
                _ => None,
            }
        };
    }
    of!(execute_command, install_package, git_operations, create_development_environment)
}

/// The arguments of a call that are needed to watch it: without those that only its start needs, which may be long.
pub fn watched_arguments(given: &Value) -> Value {
    let mut kept = given.clone();
    if let Some(object) = kept.as_object_mut() {
        object.retain(|name, _| name != "stdin" && name != "env");
    }
    kept
}

static DEFINITIONS: LazyLock<Vec<ToolDefinition>> =
    LazyLock::new(|| catalogue::entries().iter().map(|entry| entry.definition.clone()).collect());

/// The tools over one set of adapters. Cheap to clone where they are.
#[derive(Debug, Clone)]
pub struct Registry<S, W, V, A> {
    store: S,
    workflow: W,
    vm: V,
    ambient: A,
}

impl<S, W, V, A> Registry<S, W, V, A> {
    /// The tools over these adapters.
    pub fn new(store: S, workflow: W, vm: V, ambient: A) -> Self {
        Self { store, workflow, vm, ambient }
    }
}

impl<S, W, V, A> Ports for Registry<S, W, V, A>
where
    S: WriteStore,
    W: StartExecution,
    V: RunCommands + VmFiles + ConnectVm,
    A: Ambient,
{
    type Store = S;
    type Workflow = W;
    type Vm = V;
    type Ambient = A;
    fn store(&self) -> &S {
        &self.store
    }
    fn workflow(&self) -> &W {
        &self.workflow
    }
    fn vm(&self) -> &V {
        &self.vm
    }
    fn ambient(&self) -> &A {
        &self.ambient
    }
}

impl<S, W, V, A> Tools for Registry<S, W, V, A>
where
    S: WriteStore,
    W: StartExecution,
    V: RunCommands + VmFiles + ConnectVm,
    A: Ambient,
{
    fn definitions(&self) -> &[ToolDefinition] {
        &DEFINITIONS
    }

    async fn start(
        &self,
        context: &ToolContext,
        name: &str,
        arguments: &Value,
        wait: Duration,
    ) -> Result<ToolProgress, VmError> {
        let call = Call { ports: self, context, mode: Mode::Start, wait };
        progress(drive(&call, name, arguments).await)
    }

    async fn poll(
        &self,
        context: &ToolContext,
        name: &str,
        arguments: &Value,
        wait: Duration,
    ) -> Result<ToolProgress, VmError> {
        let call = Call { ports: self, context, mode: Mode::Poll, wait };
        progress(drive(&call, name, arguments).await)
    }

    async fn kill(&self, context: &ToolContext, _name: &str, _arguments: &Value) -> Result<(), VmError> {
        self.vm.kill_run(&context.vm_id, &context.call_id).await
    }
}

/// Whether `text` can be the id of a tool call or command.
pub fn is_command_id(text: &str) -> bool {
    get_command::checked_id(text).is_ok()
}

/// A failure that no tool told: for callers that check something before a call, such as an allow list.
pub fn refused(name: &str) -> ToolResult {
    let shown: String = name.chars().take(64).collect();
    ToolResult::error(format!("The tool {shown:?} may not be used here. Use another one."))
}
