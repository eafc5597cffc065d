//! The tools of agents as use cases see them. One implementation exists (`pvm_tools::Registry`); tests script their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use pvm_domain::ids::{ConversationId, ProjectId};
use pvm_domain::limits;
use pvm_domain::text::head_and_tail;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ports::VmError;

/// A tool: what a model is told about it, and what the workflow must know to run it rightly.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDefinition {
    /// Its name, `[a-z0-9_]{1,64}`.
    pub name: String,
    /// What it does and when to use it, written for models.
    pub description: String,
    /// JSON schema of its arguments, in the subset that every provider takes.
    pub input_schema: Value,
    /// JSON schema of [`ToolResult::structured`].
    pub output_schema: Value,
    /// It changes nothing: calls of such tools in one answer run at the same time, and a lost one is run again.
    pub read_only: bool,
    /// It may destroy something (a hint for people and MCP clients).
    pub destructive: bool,
    /// Running it twice has the effect of running it once: a lost one is run again.
    pub idempotent: bool,
    /// It works inside the VM, which must be ready first.
    pub needs_vm: bool,
    /// It runs a program in the VM for its caller: each call counts as a command of the minute (fair use).
    pub runs_command: bool,
    /// It may change files of the workspace, which are saved afterwards.
    pub may_change_files: bool,
}

impl ToolDefinition {
    /// The argument that a call is about: the first that is required.
    pub fn subject(&self) -> Option<&str> {
        self.input_schema["required"][0].as_str()
    }
}

/// Where and for whom a call runs.
#[derive(Debug, Clone)]
pub struct ToolContext {
    /// The project; a tool never reaches beyond it.
    pub project_id: ProjectId,
    /// The ready VM; empty for a tool that needs none.
    pub vm_id: String,
    /// The VM's epoch, for records that must remember it.
    pub epoch: u64,
    /// The call's id. It is the id of its run in the VM's journal; a tool of several runs derives `<call_id>-1`,
    /// `<call_id>-2` and so on from it.
    pub call_id: String,
    /// The conversation, where an agent called.
    pub conversation_id: Option<ConversationId>,
    /// The agent that called.
    pub agent_id: Option<String>,
    /// Where relative paths start: `/workspace`, or the agent's own worktree in parallel mode.
    pub working_dir: String,
    /// Environment of the project.
    pub env: BTreeMap<String, String>,
}

/// How a call ended. A failed command and bad arguments are results too: the model corrects itself by them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// It did not do what was asked.
    pub is_error: bool,
    /// The result as text, at most 32 KiB (head and tail).
    pub text: String,
    /// The same as data, by the tool's output schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
    /// Where in the VM the whole output is, where `text` is not the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_path: Option<String>,
}

impl ToolResult {
    /// A failure that the model should read.
    pub fn error(text: impl Into<String>) -> Self {
        Self { is_error: true, text: text.into(), structured: None, output_path: None }
    }

    /// The result within its bounds: text cut in the middle, and no data where it is too much. Tools cut their own data so
    /// that it fits; this is for the one that does not.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let (text, is_cut) = head_and_tail(&self.text, limits::OUTPUT_TO_MODEL_BYTES);
        if is_cut {
            self.text = text;
        }
        self.structured = self.structured.filter(|data| data.to_string().len() <= limits::TOOL_DATA_BYTES);
        self
    }
}

/// How a call stands.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolProgress {
    /// It ended.
    Done(ToolResult),
    /// It still runs.
    Running {
        /// When to look again.
        delay: Duration,
        /// The end of its output so far, at most 4 KiB, for those who watch.
        output: String,
    },
}

/// The tools.
pub trait Tools: Send + Sync {
    /// Every tool, in a fixed order.
    fn definitions(&self) -> &[ToolDefinition];

    /// Starts the call unless its id was started before, and waits up to `wait` for its end. Safe to repeat: a call that
    /// was started is only watched. Bad arguments and an unknown tool are a `Done` result that says what is wrong.
    ///
    /// # Errors
    /// Those of the VM; `Unavailable` and `Busy` may be tried again, `Gone` means that the VM is lost.
    fn start(
        &self,
        context: &ToolContext,
        name: &str,
        arguments: &Value,
        wait: Duration,
    ) -> impl Future<Output = Result<ToolProgress, VmError>> + Send;

    /// Watches a call that was started, for up to `wait`; goes on with a call of several runs. Never starts the first run.
    ///
    /// # Errors
    /// As [`Tools::start`]; `NotFound` where this VM does not know the call.
    fn poll(
        &self,
        context: &ToolContext,
        name: &str,
        arguments: &Value,
        wait: Duration,
    ) -> impl Future<Output = Result<ToolProgress, VmError>> + Send;

    /// Kills whatever the call runs in the VM; an unknown or ended call is fine.
    ///
    /// # Errors
    /// Those of the VM.
    fn kill(
        &self,
        context: &ToolContext,
        name: &str,
        arguments: &Value,
    ) -> impl Future<Output = Result<(), VmError>> + Send;
}
