//! A tool call as it is in its VM: where to find it, and its end.

use std::collections::BTreeMap;

use pvm_domain::conversation::{CallResult, Run, ToolCall};
use pvm_domain::file::WORKSPACE;
use pvm_domain::limits;

use crate::ports_tools::{ToolContext, ToolResult};

/// The most of a result's text as it is encoded in JSON, in bytes: its record holds the arguments (256 KiB) and the data
/// too. Twice the raw bound, so that only output of control characters is cut further.
const TEXT_ENCODED_BYTES: usize = 2 * limits::OUTPUT_TO_MODEL_BYTES;

/// A tool's result as it is kept.
pub(crate) fn to_result(result: ToolResult) -> CallResult {
    let ToolResult { is_error, text, structured, output_path } = result.bounded();
    let text = pvm_domain::text::encoded_head_and_tail(&text, TEXT_ENCODED_BYTES).0;
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
