//! The events of an execution's history, named and shaped as GetExecutionHistory gives them.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// An event that is about to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The event it follows; None for the one before it in the same step.
    pub(crate) previous: Option<i64>,
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    /// One object with the details under the name that the kind has, as JSON; `{}` for kinds without.
    pub(crate) details: String,
}

/// What happened, without the when.
#[derive(Debug)]
pub(crate) struct Happening {
    kind: String,
    details: Value,
}

impl Happening {
    fn new(kind: impl Into<String>, field: &str, details: Value) -> Self {
        let mut object = Map::new();
        object.insert(field.to_owned(), details);
        Self { kind: kind.into(), details: Value::Object(object) }
    }

    pub(crate) fn into_event(self, previous: Option<i64>, at: Timestamp) -> Event {
        Event { previous, at, kind: self.kind, details: self.details.to_string() }
    }

    pub(crate) fn execution_started(input: &str, role_arn: &str) -> Self {
        let details = json!({ "input": input, "inputDetails": not_truncated(), "roleArn": role_arn });
        Self::new("ExecutionStarted", "executionStartedEventDetails", details)
    }

    pub(crate) fn state_entered(type_name: &str, state: &str, input: &str) -> Self {
        let details = json!({ "name": state, "input": input, "inputDetails": not_truncated() });
        Self::new(format!("{type_name}StateEntered"), "stateEnteredEventDetails", details)
    }

    pub(crate) fn state_exited(type_name: &str, state: &str, output: &str) -> Self {
        let details = json!({ "name": state, "output": output, "outputDetails": not_truncated() });
        Self::new(format!("{type_name}StateExited"), "stateExitedEventDetails", details)
    }

    pub(crate) fn task_scheduled(
        resource: &str,
        parameters: &str,
        region: &str,
        timeout_seconds: Option<u64>,
    ) -> Self {
        let mut details = task(resource);
        details["parameters"] = parameters.into();
        details["region"] = region.into();
        if let Some(seconds) = timeout_seconds {
            details["timeoutInSeconds"] = seconds.into();
        }
        Self::new("TaskScheduled", "taskScheduledEventDetails", details)
    }

    pub(crate) fn task_started(resource: &str) -> Self {
        Self::new("TaskStarted", "taskStartedEventDetails", task(resource))
    }

    pub(crate) fn task_submitted(resource: &str, output: &str) -> Self {
        Self::new("TaskSubmitted", "taskSubmittedEventDetails", with_output(task(resource), output))
    }

    pub(crate) fn task_succeeded(resource: &str, output: &str) -> Self {
        Self::new("TaskSucceeded", "taskSucceededEventDetails", with_output(task(resource), output))
    }

    pub(crate) fn task_failed(resource: &str, failure: &Failure) -> Self {
        Self::new("TaskFailed", "taskFailedEventDetails", with_failure(task(resource), failure))
    }

    pub(crate) fn task_timed_out(resource: &str, failure: &Failure) -> Self {
        Self::new("TaskTimedOut", "taskTimedOutEventDetails", with_failure(task(resource), failure))
    }

    pub(crate) fn map_started(length: usize) -> Self {
        Self::new("MapStateStarted", "mapStateStartedEventDetails", json!({ "length": length }))
    }

    /// `Succeeded` or `Failed`.
    pub(crate) fn map_ended(how: &str) -> Self {
        Self { kind: format!("MapState{how}"), details: Value::Object(Map::new()) }
    }

    /// `Started`, `Succeeded`, `Failed` or `Aborted`.
    pub(crate) fn map_iteration(how: &str, map: &str, index: usize) -> Self {
        let field = format!("mapIteration{how}EventDetails");
        Self::new(format!("MapIteration{how}"), &field, json!({ "name": map, "index": index }))
    }

    pub(crate) fn execution_succeeded(output: &str) -> Self {
        Self::new("ExecutionSucceeded", "executionSucceededEventDetails", with_output(json!({}), output))
    }

    /// `Failed`, `Aborted` or `TimedOut`.
    pub(crate) fn execution_ended_badly(how: &str, failure: Option<&Failure>) -> Self {
        let details = failure.map_or_else(|| json!({}), |failure| with_failure(json!({}), failure));
        Self::new(format!("Execution{how}"), &format!("execution{how}EventDetails"), details)
    }
}

fn not_truncated() -> Value {
    json!({ "truncated": false })
}

fn task(resource: &str) -> Value {
    json!({ "resourceType": "lambda", "resource": resource })
}

fn with_output(mut details: Value, output: &str) -> Value {
    details["output"] = output.into();
    details["outputDetails"] = not_truncated();
    details
}

fn with_failure(mut details: Value, failure: &Failure) -> Value {
    details["error"] = failure.error.as_str().into();
    if !failure.cause.is_empty() {
        details["cause"] = failure.cause.as_str().into();
    }
    details
}
