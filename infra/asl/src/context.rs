//! The context object `$$`.

use serde_json::{Value, json};

use crate::path::{Path, Segment};

/// Which parts of the context object exist where a path stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ContextScope {
    /// Inside a Map's ItemSelector or ItemProcessor.
    pub(crate) map_item: bool,
    /// In the parameters of a `.waitForTaskToken` task.
    pub(crate) task_token: bool,
}

/// Whether `path`, which starts at `$$`, names a field of the context object that is there in `scope`.
///
/// # Errors
/// A clause that says why not.
pub(crate) fn check_context_path(path: &Path, scope: ContextScope) -> Result<(), String> {
    let names: Vec<&str> = path
        .segments()
        .iter()
        .map(|segment| match segment {
            Segment::Field(name) => name.as_str(),
            Segment::Index(_) => "[]",
        })
        .collect();
    let text = path.text();
    match names[..] {
        ["Execution", "Id" | "Name" | "StartTime" | "RoleArn"]
        | ["Execution", "Input", ..]
        | ["State", "Name" | "EnteredTime" | "RetryCount"]
        | ["StateMachine", "Id" | "Name"] => Ok(()),
        ["Map", "Item", "Index"] | ["Map", "Item", "Value", ..] if scope.map_item => Ok(()),
        ["Map", "Item", "Index" | "Value", ..] => Err(format!("{text:?} exists only inside a Map")),
        ["Task", "Token"] if scope.task_token => Ok(()),
        ["Task", "Token"] => {
            Err(format!("{text:?} exists only in the Parameters of a .waitForTaskToken task"))
        }
        _ => Err(format!("{text:?} is not a field of the context object that the subset has")),
    }
}

/// What the context object is made of in one state of one branch.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) execution: &'a Value,
    pub(crate) state_machine: &'a Value,
    pub(crate) state_name: &'a str,
    pub(crate) entered_at: jiff::Timestamp,
    pub(crate) retry_count: u64,
    pub(crate) map_item: Option<&'a MapItem>,
    pub(crate) task_token: Option<&'a str>,
}

/// The item that an iteration works on.
#[derive(Debug, Clone)]
pub(crate) struct MapItem {
    pub(crate) index: usize,
    pub(crate) value: Value,
}

impl Context<'_> {
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({
            "Execution": self.execution,
            "StateMachine": self.state_machine,
            "State": {
                "Name": self.state_name,
                "EnteredTime": format_time(self.entered_at),
                "RetryCount": self.retry_count,
            },
        });
        if let Some(item) = self.map_item {
            value["Map"] = json!({ "Item": { "Index": item.index, "Value": item.value } });
        }
        if let Some(token) = self.task_token {
            value["Task"] = json!({ "Token": token });
        }
        value
    }
}

/// RFC 3339 in UTC with milliseconds, as AWS writes times.
pub(crate) fn format_time(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}
