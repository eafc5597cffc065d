//! Executions of the two state machines in Step Functions.

use std::sync::Arc;

use aws_sdk_sfn::Client;
use aws_sdk_sfn::config::http::HttpResponse;
use aws_sdk_sfn::error::{ProvideErrorMetadata, SdkError};
use pvm_application::ports::{Machine, SendTask, StartExecution, Started, StopExecution, WorkflowError};
use serde_json::Value;

/// From what the ARNs of machines and executions are built. They are built from names and not handed in, because the
/// machines' own functions start executions and the template would otherwise have a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineNames {
    /// `aws`, or the partition of another cloud of Amazon.
    pub partition: String,
    /// Region.
    pub region: String,
    /// Account number.
    pub account: String,
    /// Name of the machine that works off one user message.
    pub run_turn: String,
    /// Name of the machine that sets VMs up and tears them down.
    pub vm_lifecycle: String,
}

impl MachineNames {
    fn name(&self, machine: Machine) -> &str {
        match machine {
            Machine::RunTurn => &self.run_turn,
            Machine::VmLifecycle => &self.vm_lifecycle,
        }
    }

    /// ARN of a machine.
    pub fn machine_arn(&self, machine: Machine) -> String {
        let Self { partition, region, account, .. } = self;
        format!("arn:{partition}:states:{region}:{account}:stateMachine:{}", self.name(machine))
    }

    /// ARN of an execution.
    pub fn execution_arn(&self, machine: Machine, execution: &str) -> String {
        let Self { partition, region, account, .. } = self;
        format!("arn:{partition}:states:{region}:{account}:execution:{}:{execution}", self.name(machine))
    }
}

/// The workflow engine.
#[derive(Debug, Clone)]
pub struct Workflows {
    client: Client,
    names: Arc<MachineNames>,
}

impl Workflows {
    /// The engine behind `client`, with these machines.
    pub fn new(client: Client, names: MachineNames) -> Self {
        Self { client, names: Arc::new(names) }
    }
}

/// Whether an error has one of these names. Emulators prefix and suffix them in other ways than AWS.
fn is_any<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>, names: &[&str]) -> bool {
    error.code().is_some_and(|code| names.iter().any(|name| code.contains(name)))
}

fn unavailable<E>(error: SdkError<E, HttpResponse>) -> WorkflowError
where
    E: std::error::Error + Send + Sync + 'static,
{
    WorkflowError::Unavailable(error.into())
}

impl StartExecution for Workflows {
    async fn start(&self, machine: Machine, name: &str, input: &Value) -> Result<Started, WorkflowError> {
        let sent = self
            .client
            .start_execution()
            .state_machine_arn(self.names.machine_arn(machine))
            .name(name)
            .input(input.to_string())
            .send()
            .await;
        match sent {
            Ok(_) => Ok(Started::Open),
            // One that goes on with the same input is answered as if it were started now. An execution's input follows
            // from its name here.
            Err(error) if is_any(&error, &["ExecutionAlreadyExists"]) => Ok(Started::Closed),
            Err(error) => Err(unavailable(error)),
        }
    }
}

impl StopExecution for Workflows {
    async fn stop(&self, machine: Machine, name: &str, cause: &str) -> Result<(), WorkflowError> {
        // Step Functions takes at most 32,768 characters of a cause.
        let cause: String = cause.chars().take(1024).collect();
        let sent = self
            .client
            .stop_execution()
            .execution_arn(self.names.execution_arn(machine, name))
            .cause(cause)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if is_any(&error, &["ExecutionDoesNotExist"]) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

impl SendTask for Workflows {
    async fn send_success(&self, token: &str, output: &Value) -> Result<bool, WorkflowError> {
        let sent = self.client.send_task_success().task_token(token).output(output.to_string()).send().await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) if is_any(&error, &["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"]) => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }
}
