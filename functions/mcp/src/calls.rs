//! `tools/call`: gets the VM ready, runs the tool once, waits as long as the client can, and hands over to a job when it
//! takes longer.

use std::time::Duration;

use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::fair_use;
use pvm_application::idempotency::{self, Claim};
use pvm_application::ports::{Clock, NewId, RequestSave, VmError};
use pvm_application::ports_tools::{ToolContext, ToolProgress, ToolResult, Tools};
use pvm_application::store::{StoreError, Tx, WriteStore};
use pvm_application::tool_jobs::{self, JobState, ToolJob};
use pvm_application::vm::{self, ReadyVm};
use pvm_domain::file::WORKSPACE;
use pvm_domain::ids::CommandId;
use pvm_tools::{Entry, Ports};
use rmcp::RoleServer;
use rmcp::model::{
    CallToolResponse, CallToolResult, ContentBlock, CreateTaskResult, ProgressNotificationParam,
};
use rmcp::service::RequestContext;
use serde_json::Value;

use crate::jobs;
use crate::parts::Parts;
use crate::server::ProjectServer;

/// Tries of a call whose answer was lost. Repeating is safe: the journal knows the call's id.
const TRIES: u32 = 3;
/// The pause before a repetition.
const PAUSE: Duration = Duration::from_millis(400);

/// A failure as a result that the model reads.
pub(crate) fn failed(text: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// A tool's result in the protocol's form.
pub(crate) fn shown(result: ToolResult) -> CallToolResult {
    let content = vec![ContentBlock::text(result.text)];
    let mut out =
        if result.is_error { CallToolResult::error(content) } else { CallToolResult::success(content) };
    out.structured_content = result.structured;
    out
}

fn told(error: &AppError) -> CallToolResult {
    if let Some(source) = &error.source {
        tracing::warn!(code = error.code.as_str(), cause = %format!("{source:#}"), "a tool call failed");
    }
    failed(error.for_model())
}

/// Whether a repeatable call is ours to run.
enum Claimed {
    /// It is, or it runs already and is only watched.
    Mine(Box<ToolJob>),
    /// It ended before.
    Ended(ToolResult),
}

/// How a call goes on after its request has waited long enough.
enum Waited {
    Done(ToolResult),
    Running(String),
}

impl<P: Parts> ProjectServer<P> {
    /// Runs one tool call to an answer.
    pub(crate) async fn call(
        &self,
        entry: &'static Entry,
        arguments: &Value,
        request: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        match self.try_call(entry, arguments, request).await {
            Ok(response) => response,
            Err(error) => told(&error).into(),
        }
    }

    async fn try_call(
        &self,
        entry: &'static Entry,
        arguments: &Value,
        request: &RequestContext<RoleServer>,
    ) -> AppResult<CallToolResponse> {
        let definition = &entry.definition;
        let began = self.now();
        let (call_id, is_keyed) = self.call_id(entry, arguments, request).await?;
        let ready = if definition.needs_vm { Some(self.ready_vm().await?) } else { None };
        if let Some(ready) = ready.as_ref().filter(|_| entry.long) {
            self.settle_jobs(ready).await;
        }
        let context = self.tool_context(&call_id, ready.as_ref());
        let claimed = match ready.as_ref().filter(|_| is_keyed) {
            Some(ready) => match self.claim(entry, arguments, &call_id, ready).await? {
                Claimed::Mine(job) => Some(job),
                Claimed::Ended(result) => return Ok(shown(result).into()),
            },
            None => None,
        };
        let knows_tasks = entry.long
            && request.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks());
        let output = match self.run(entry, arguments, &context, request, knows_tasks, began).await? {
            Waited::Done(result) => {
                if definition.may_change_files {
                    self.mcp.saver().request_save(&self.project.project_id).await;
                }
                self.settle_seen(&definition.name, &result, &context).await;
                if let Some(job) = claimed {
                    let done = JobState::Done { result: result.clone() };
                    tool_jobs::finish(self.store(), *job, done, self.now()).await?;
                }
                return Ok(shown(result).into());
            }
            Waited::Running(output) => output,
        };
        let Some(ready) = ready else {
            return Ok(failed("This takes longer than a request may; ask again in a moment.").into());
        };
        let job = match claimed {
            Some(job) => *job,
            None => self.new_job(entry, arguments, &call_id, &ready),
        };
        tool_jobs::note(self.store(), job.clone()).await?;
        if knows_tasks {
            return Ok(CreateTaskResult::new(jobs::task(&job, &output)).into());
        }
        Ok(still_running(&context, &definition.name, arguments, output).into())
    }

    fn new_job(&self, entry: &Entry, arguments: &Value, call_id: &str, ready: &ReadyVm) -> ToolJob {
        // Short tools are never watched: their arguments, which may be a whole file, are not needed again.
        let kept = if entry.long { pvm_tools::watched_arguments(arguments) } else { Value::Null };
        let name = &entry.definition.name;
        ToolJob::new(&self.project.project_id, call_id, name, kept, ready, self.now())
    }

    /// Notes in which VM a repeatable call runs, before it starts there. One that was noted in a VM that is gone is
    /// lost: it must not run again in the next one.
    async fn claim(
        &self,
        entry: &Entry,
        arguments: &Value,
        call_id: &str,
        ready: &ReadyVm,
    ) -> AppResult<Claimed> {
        let known = tool_jobs::load(self.store(), &self.project.project_id, call_id, self.now()).await?;
        let job = if let Some(job) = known {
            job
        } else {
            let job = self.new_job(entry, arguments, call_id, ready);
            tool_jobs::note(self.store(), job.clone()).await?;
            let noted = tool_jobs::load(self.store(), &self.project.project_id, call_id, self.now()).await?;
            noted.unwrap_or(job)
        };
        match &job.state {
            JobState::Done { result } => Ok(Claimed::Ended(result.clone())),
            JobState::Cancelled => Ok(Claimed::Ended(ToolResult::error("This call was cancelled."))),
            JobState::Working if job.epoch == ready.epoch => Ok(Claimed::Mine(Box::new(job))),
            JobState::Working => {
                let result = jobs::lost();
                let done = JobState::Done { result: result.clone() };
                tool_jobs::finish(self.store(), job, done, self.now()).await?;
                Ok(Claimed::Ended(result))
            }
        }
    }

    /// The call's id: a new one, or that of the same request before, where the client marked it as repeatable; and
    /// whether it did.
    async fn call_id(
        &self,
        entry: &Entry,
        arguments: &Value,
        request: &RequestContext<RoleServer>,
    ) -> AppResult<(String, bool)> {
        let fresh = self.ambient().new_id::<CommandId>().to_string();
        let header = request
            .extensions
            .get::<http::request::Parts>()
            .and_then(|parts| parts.headers.get(&pvm_entry::request::IDEMPOTENCY_KEY)?.to_str().ok());
        let Some(key) = header.filter(|_| !entry.definition.read_only) else {
            self.store().commit(self.counted(entry, Tx::new()).await?).await?;
            return Ok((fresh, false));
        };
        let route = format!("mcp {} {}", self.project.project_id, entry.definition.name);
        let body = serde_json::to_vec(arguments).unwrap_or_default();
        let claim = Claim::new(&self.principal.owner, key, &route, &body)?;
        let known = || idempotency::replayed(self.store(), Some(&claim), self.now());
        if let Some(known) = known().await? {
            return Ok((known, true));
        }
        let mut record = claim.record(&fresh, self.now());
        // A repetition runs nothing, so only the first of the same request counts.
        let tx = self.counted(entry, Tx::new().create(&mut record)).await?;
        match self.store().commit(tx).await {
            Ok(_) => Ok((fresh, true)),
            // The same request came twice at once: the other one's id holds.
            Err(StoreError::Conflict { .. }) => Ok((known().await?.unwrap_or(fresh), true)),
            Err(other) => Err(other.into()),
        }
    }

    /// Counts a call that runs a command, within the limits of the project's owner.
    async fn counted(&self, entry: &Entry, tx: Tx) -> AppResult<Tx> {
        if !entry.definition.runs_command {
            return Ok(tx);
        }
        fair_use::counting_a_command(self.store(), &self.project.owner, tx, self.now()).await
    }

    /// The VM, ready within what a request may take.
    pub(crate) async fn ready_vm(&self) -> AppResult<ReadyVm> {
        let tools = self.mcp.tools();
        let within = self.mcp.waits().quiet;
        let id = &self.project.project_id;
        vm::ready(tools.store(), tools.workflow(), tools.vm(), tools.ambient(), id, within).await
    }

    pub(crate) fn tool_context(&self, call_id: &str, ready: Option<&ReadyVm>) -> ToolContext {
        ToolContext {
            project_id: self.project.project_id.clone(),
            vm_id: ready.map(|ready| ready.vm_id.clone()).unwrap_or_default(),
            epoch: ready.map_or(0, |ready| ready.epoch),
            call_id: call_id.to_owned(),
            conversation_id: None,
            agent_id: None,
            working_dir: WORKSPACE.to_owned(),
            env: self.project.env.clone(),
        }
    }

    /// Starts the tool and watches it for as long as this request may wait.
    async fn run(
        &self,
        entry: &Entry,
        arguments: &Value,
        context: &ToolContext,
        request: &RequestContext<RoleServer>,
        knows_tasks: bool,
        began: pvm_domain::Timestamp,
    ) -> AppResult<Waited> {
        let waits = self.mcp.waits();
        let token = request.meta.get_progress_token();
        let watched = token.is_some() && entry.long;
        let most = match (knows_tasks, watched) {
            (true, _) => waits.task,
            (false, true) => waits.watched,
            (false, false) => waits.quiet,
        };
        let mut first = true;
        let mut seen = 0.0;
        loop {
            let passed = Duration::try_from(self.now().duration_since(began)).unwrap_or_default();
            // A VM that was slow to get ready leaves the tool a moment all the same.
            let left = most.saturating_sub(passed).max(if first { waits.look } else { Duration::ZERO });
            let wait = if watched { waits.look.min(left) } else { left };
            let step = self.step(entry, arguments, context, wait, first);
            let progress = tokio::select! {
                progress = step => progress?,
                // In the stateless era a client that goes away takes its request back.
                () = request.ct.cancelled(), if is_stateless(request) => {
                    self.mcp.tools().kill(context, &entry.definition.name, arguments).await?;
                    return Ok(Waited::Done(ToolResult::error("Cancelled by the client.")));
                }
            };
            let output = match progress {
                ToolProgress::Done(result) => return Ok(Waited::Done(result)),
                ToolProgress::Running { output, .. } => output,
            };
            if left <= wait {
                return Ok(Waited::Running(output));
            }
            if let Some(token) = &token {
                seen += 1.0;
                let message = output.trim_end().lines().last().unwrap_or("running").to_owned();
                let note = ProgressNotificationParam::new(token.clone(), seen).with_message(message);
                // Progress is a courtesy: a client that does not take it gets the result all the same.
                drop(request.peer.notify_progress(note).await);
            }
            first = false;
        }
    }

    /// One start or look, repeated where the answer was lost.
    async fn step(
        &self,
        entry: &Entry,
        arguments: &Value,
        context: &ToolContext,
        wait: Duration,
        start: bool,
    ) -> AppResult<ToolProgress> {
        let (tools, name) = (self.mcp.tools(), entry.definition.name.as_str());
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = if start {
                tools.start(context, name, arguments, wait).await
            } else {
                tools.poll(context, name, arguments, wait).await
            };
            match outcome {
                Ok(progress) => return Ok(progress),
                Err(VmError::Busy { .. } | VmError::Unavailable(_)) if tries < TRIES => {
                    self.ambient().sleep(PAUSE * tries).await;
                }
                Err(VmError::Gone) => return Ok(ToolProgress::Done(self.vm_is_gone(context).await?)),
                Err(error @ VmError::Paused) => {
                    self.vm_is_paused(context).await?;
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Notes that the VM is gone, and says what that means for the call.
    pub(crate) async fn vm_is_gone(&self, context: &ToolContext) -> AppResult<ToolResult> {
        vm::lease::note_gone(self.store(), self.ambient(), &context.project_id, &context.vm_id).await?;
        Ok(ToolResult::error(
            "The VM went away during this call: its outcome is unknown, and it was not repeated. The next call gets a \
             new VM with the saved files; look at what is there before you repeat it.",
        ))
    }

    /// Notes that the VM's provider paused it: what runs in it goes on when it is resumed.
    pub(crate) async fn vm_is_paused(&self, context: &ToolContext) -> AppResult<()> {
        let (project_id, vm_id) = (&context.project_id, &context.vm_id);
        let noted = vm::lease::note_away(self.store(), self.ambient(), project_id, vm_id, &VmError::Paused);
        noted.await.map(|_| ())
    }

    /// `get_command` and `kill_command` may see the end of a job: then what follows the job's own tool is done, such as
    /// its note in the recipe.
    async fn settle_seen(&self, name: &str, result: &ToolResult, context: &ToolContext) {
        let Some(seen) =
            result.structured.as_ref().filter(|_| ["get_command", "kill_command"].contains(&name))
        else {
            return;
        };
        let (Some(id), Some(status)) = (seen["command_id"].as_str(), seen["status"].as_str()) else { return };
        if status == "running" {
            return;
        }
        let settled = async {
            match tool_jobs::load(self.store(), &self.project.project_id, id, self.now()).await? {
                Some(job) => self.look_at(job, &context.vm_id, Duration::ZERO).await.map(|_| ()),
                None => Ok(()),
            }
        };
        if let Err(error) = settled.await {
            tracing::warn!(command.id = id, error = %error, "a finished call could not be settled");
        }
    }

    pub(crate) fn store(&self) -> &<P::Tools as Ports>::Store {
        self.mcp.tools().store()
    }

    pub(crate) fn ambient(&self) -> &<P::Tools as Ports>::Ambient {
        self.mcp.tools().ambient()
    }

    pub(crate) fn now(&self) -> pvm_domain::Timestamp {
        self.ambient().now()
    }
}

fn is_stateless(request: &RequestContext<RoleServer>) -> bool {
    let version = request.protocol_version();
    version.is_some_and(|version| version.as_str() >= rmcp::model::ProtocolVersion::V_2026_07_28.as_str())
}

/// The answer to a call that goes on: its handle, in the form of the tool's own result.
fn still_running(context: &ToolContext, name: &str, arguments: &Value, output: String) -> CallToolResult {
    let id = &context.call_id;
    let so_far =
        if output.trim().is_empty() { String::new() } else { format!(" So far it wrote:\n{output}") };
    let text = format!(
        "Still running as {id}. Look at it with get_command (give wait_secs to wait for its end), or end it with \
         kill_command.{so_far}"
    );
    match pvm_tools::running(context, name, arguments, output) {
        Some(data) => {
            let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
            result.structured_content = Some(data);
            result
        }
        None => failed(text),
    }
}

/// What a use case's error means for a job: whether asking again may help.
pub(crate) fn is_passing(error: &AppError) -> bool {
    matches!(error.code, ErrorCode::Unavailable | ErrorCode::VmNotReady | ErrorCode::Conflict)
}
