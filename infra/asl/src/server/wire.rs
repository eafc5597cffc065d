//! Requests and answers of the API, field by field as AWS names them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::arn::Home;
use crate::definition::Machine;
use crate::engine::{Execution, ExecutionSummary, HistoryEvent, Page, StartedExecution};

/// A time as the protocol wants it: seconds since 1970, with a fraction.
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartExecution {
    pub(super) state_machine_arn: String,
    pub(super) name: Option<String>,
    pub(super) input: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Started {
    execution_arn: String,
    start_date: f64,
}

impl From<StartedExecution> for Started {
    fn from(started: StartedExecution) -> Self {
        Self { execution_arn: started.arn, start_date: seconds(started.started_at) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StopExecution {
    pub(super) execution_arn: String,
    pub(super) error: Option<String>,
    pub(super) cause: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stopped {
    pub(super) stop_date: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecutionArn {
    pub(super) execution_arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MachineArn {
    pub(super) state_machine_arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    execution_arn: String,
    state_machine_arn: String,
    name: String,
    status: &'static str,
    start_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_date: Option<f64>,
    input: String,
    input_details: Included,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_details: Option<Included>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

#[derive(Serialize)]
struct Included {
    included: bool,
}

impl From<Execution> for Described {
    fn from(execution: Execution) -> Self {
        Self {
            execution_arn: execution.arn,
            state_machine_arn: execution.machine_arn,
            name: execution.name,
            status: execution.status.as_str(),
            start_date: seconds(execution.started_at),
            stop_date: execution.stopped_at.map(seconds),
            input: execution.input,
            input_details: Included { included: true },
            output_details: execution.output.as_ref().map(|_| Included { included: true }),
            output: execution.output,
            error: execution.error,
            cause: execution.cause,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListExecutions {
    pub(super) state_machine_arn: String,
    pub(super) status_filter: Option<String>,
    pub(super) max_results: Option<usize>,
    pub(super) next_token: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    executions: Vec<ListItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListItem {
    execution_arn: String,
    state_machine_arn: String,
    name: String,
    status: &'static str,
    start_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_date: Option<f64>,
}

impl From<Page<ExecutionSummary>> for Listed {
    fn from(page: Page<ExecutionSummary>) -> Self {
        let executions = page
            .items
            .into_iter()
            .map(|item| ListItem {
                execution_arn: item.arn,
                state_machine_arn: item.machine_arn,
                name: item.name,
                status: item.status.as_str(),
                start_date: seconds(item.started_at),
                stop_date: item.stopped_at.map(seconds),
            })
            .collect();
        Self { executions, next_token: page.next_token }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GetExecutionHistory {
    pub(super) execution_arn: String,
    #[serde(default)]
    pub(super) reverse_order: bool,
    pub(super) max_results: Option<usize>,
    pub(super) next_token: Option<String>,
    #[serde(default = "yes")]
    pub(super) include_execution_data: bool,
}

fn yes() -> bool {
    true
}

/// A page of history. Without data, inputs, outputs and parameters are left out.
pub(super) fn history(page: Page<HistoryEvent>, include_data: bool) -> Value {
    let events: Vec<Value> = page.items.into_iter().map(|event| history_event(event, include_data)).collect();
    let mut answer = json!({ "events": events });
    if let Some(token) = page.next_token {
        answer["nextToken"] = token.into();
    }
    answer
}

fn history_event(event: HistoryEvent, include_data: bool) -> Value {
    let mut object = Map::new();
    object.insert("id".to_owned(), event.id.into());
    object.insert("previousEventId".to_owned(), event.previous_id.into());
    object.insert("timestamp".to_owned(), seconds(event.at).into());
    object.insert("type".to_owned(), event.kind.into());
    object.extend(event.details);
    if !include_data {
        for details in object.values_mut().filter_map(Value::as_object_mut) {
            for field in ["input", "output", "parameters"] {
                details.remove(field);
            }
        }
    }
    Value::Object(object)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskSuccess {
    pub(super) task_token: String,
    pub(super) output: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskFailure {
    pub(super) task_token: String,
    pub(super) error: Option<String>,
    pub(super) cause: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskToken {
    pub(super) task_token: String,
}

/// What DescribeStateMachine answers.
pub(super) fn machine(home: &Home, machine: &Machine, loaded_at: Timestamp) -> Value {
    json!({
        "stateMachineArn": home.machine_arn(machine.name()),
        "name": machine.name(),
        "status": "ACTIVE",
        "definition": machine.definition(),
        "roleArn": home.role_arn(),
        "type": "STANDARD",
        "creationDate": seconds(loaded_at),
    })
}
