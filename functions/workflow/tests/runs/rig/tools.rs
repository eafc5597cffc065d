//! Two tools, both of which run in the scripted VM: `look` changes nothing, `change` does.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_application::ports::{ReadFrom, RunCommands, RunReport, RunSpec, RunState, VmError};
use pvm_application::ports_tools::{ToolContext, ToolDefinition, ToolProgress, ToolResult, Tools};
use serde_json::{Value, json};

use super::vm::Vm;

#[derive(Debug)]
pub(crate) struct FakeTools {
    vm: Vm,
    definitions: Vec<ToolDefinition>,
}

impl FakeTools {
    pub(crate) fn new(vm: Vm) -> Self {
        let tool = |name: &str, read_only: bool| ToolDefinition {
            name: name.to_owned(),
            description: format!("The tool {name}."),
            input_schema: json!({"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}),
            output_schema: json!({"type": "object"}),
            read_only,
            destructive: false,
            idempotent: read_only,
            runs_command: false,
            needs_vm: true,
            may_change_files: !read_only,
        };
        Self {
            vm,
            definitions: vec![tool("look", true), tool("change", false), tool("execute_command", false)],
        }
    }

    fn spec(context: &ToolContext, arguments: &Value) -> RunSpec {
        let what = arguments.get("what").or_else(|| arguments.get("command")).and_then(Value::as_str);
        RunSpec {
            run_id: context.call_id.clone(),
            command: what.unwrap_or_default().to_owned(),
            working_dir: context.working_dir.clone(),
            env: BTreeMap::new(),
            stdin: None,
            user: "user".to_owned(),
            timeout_secs: None,
        }
    }
}

fn progress(report: &RunReport) -> ToolProgress {
    let text = String::from_utf8_lossy(&report.stdout.data).into_owned();
    match report.state {
        RunState::Running => ToolProgress::Running { delay: Duration::from_secs(2), output: text },
        _ => ToolProgress::Done(ToolResult {
            is_error: report.exit_code != Some(0),
            text,
            structured: Some(json!({"exit_code": report.exit_code})),
            output_path: None,
        }),
    }
}

impl Tools for FakeTools {
    fn definitions(&self) -> &[ToolDefinition] {
        &self.definitions
    }

    async fn start(
        &self,
        context: &ToolContext,
        _: &str,
        arguments: &Value,
        wait: Duration,
    ) -> Result<ToolProgress, VmError> {
        let report = self.vm.start_run(&context.vm_id, &Self::spec(context, arguments), wait).await?;
        Ok(progress(&report))
    }

    async fn poll(
        &self,
        context: &ToolContext,
        _: &str,
        _: &Value,
        wait: Duration,
    ) -> Result<ToolProgress, VmError> {
        let from = ReadFrom { stdout: 0, stderr: 0, limit: 1000, wait };
        let report = self.vm.read_run(&context.vm_id, &context.call_id, from).await?;
        report.map(|report| progress(&report)).ok_or_else(|| VmError::NotFound("run".to_owned()))
    }

    async fn kill(&self, context: &ToolContext, _: &str, _: &Value) -> Result<(), VmError> {
        self.vm.kill_run(&context.vm_id, &context.call_id).await
    }
}
