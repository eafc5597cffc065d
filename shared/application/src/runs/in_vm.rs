//! A tool call as it is in its VM: where to find it, its end, and how to kill it.

use std::collections::BTreeMap;

use pvm_domain::conversation::{CallOrigin, CallResult, Run, ToolCall};
use pvm_domain::file::WORKSPACE;

use crate::ports::{RunCommands, VmError};
use crate::ports_tools::{ToolContext, ToolResult, Tools};

/// A tool's result as it is kept.
pub(crate) fn to_result(result: ToolResult) -> CallResult {
    let ToolResult { is_error, text, structured, output_path } = result.bounded();
    CallResult { is_error, text, structured, output_path }
}

/// Where a call was started, for those who only need to find it there.
pub(crate) fn context_of(run: &Run, call: &ToolCall, vm_id: &str) -> ToolContext {
    ToolContext {
        project_id: run.project_id.clone(),
        vm_id: vm_id.to_owned(),
        epoch: call.epoch.unwrap_or(0),
        call_id: call.tool_call_id.to_string(),
        conversation_id: Some(call.conversation_id.clone()),
        agent_id: Some(call.agent_id.clone()),
        working_dir: run.lane.as_ref().map_or_else(|| WORKSPACE.to_owned(), |lane| lane.worktree.clone()),
        env: BTreeMap::new(),
    }
}

/// Kills what a call runs in its VM.
///
/// # Errors
/// Of the VM.
pub(crate) async fn kill<V: RunCommands, T: Tools>(
    vm: &V,
    tools: &T,
    call: &ToolCall,
    context: &ToolContext,
) -> Result<(), VmError> {
    match call.origin {
        CallOrigin::VmLine => vm.kill_run(&context.vm_id, &context.call_id).await,
        CallOrigin::Tool => tools.kill(context, &call.name, &call.arguments).await,
    }
}
