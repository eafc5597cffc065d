//! Calls that outlive their request: as tasks of the protocol's extension for clients that know it, and looked after
//! whenever somebody comes by.

use std::time::Duration;

use pvm_application::error::AppResult;
use pvm_application::ports::{RequestSave, VmError};
use pvm_application::ports_tools::{ToolProgress, ToolResult, Tools};
use pvm_application::tool_jobs::{self, JOB_SECS, JobState, ToolJob};
use pvm_application::vm::{ReadyVm, lease, ready};
use pvm_domain::project::Scope;
use rmcp::ErrorData;
use rmcp::model::{DetailedTask, GetTaskResult, Task, TaskPayload, TaskStatus};
use serde_json::Value;

use crate::calls::{is_passing, shown};
use crate::parts::Parts;
use crate::server::{ProjectServer, protocol_error};

/// How often a client should ask.
const POLL_MS: u64 = 2_000;
/// How long one question waits for the end.
const LOOK: Duration = Duration::from_secs(1);
/// The newest jobs that are looked after on the way of another call.
const SETTLED_AT_ONCE: u32 = 50;

/// A job as a task, with the last line of its output.
pub(crate) fn task(job: &ToolJob, output: &str) -> Task {
    let status = match job.state {
        JobState::Working => TaskStatus::Working,
        JobState::Done { .. } => TaskStatus::Completed,
        JobState::Cancelled => TaskStatus::Cancelled,
    };
    let task = Task::new(job.call_id.clone(), status, job.created_at.to_string(), job.updated_at.to_string())
        .with_ttl_ms(JOB_SECS * 1000)
        .with_poll_interval_ms(POLL_MS);
    match output.trim_end().lines().last() {
        Some(line) => task.with_status_message(line.chars().take(200).collect::<String>()),
        None => task,
    }
}

pub(crate) fn lost() -> ToolResult {
    ToolResult::error(
        "The VM was replaced while this ran: its outcome is unknown, and it was not repeated. Look at what is there \
         before you repeat it.",
    )
}

impl<P: Parts> ProjectServer<P> {
    /// The job of that id, in this project.
    pub(crate) async fn known_job(&self, id: &str) -> Result<ToolJob, ErrorData> {
        let unknown = || ErrorData::invalid_params("There is no such task, or it was forgotten.", None);
        if !pvm_tools::is_command_id(id) {
            return Err(unknown());
        }
        let found = tool_jobs::load(self.store(), &self.project.project_id, id, self.now()).await;
        found.map_err(|error| protocol_error(&error))?.ok_or_else(unknown)
    }

    /// `tasks/get`.
    pub(crate) async fn task(&self, id: &str) -> Result<GetTaskResult, ErrorData> {
        let mut job = self.known_job(id).await?;
        let mut output = String::new();
        if job.state == JobState::Working {
            (job, output) = match self.follow(job.clone()).await {
                Ok(found) => found,
                // The task goes on being what it was; the client asks again.
                Err(error) if is_passing(&error) => (job, error.detail),
                Err(error) => return Err(protocol_error(&error)),
            };
        }
        let payload = match &job.state {
            JobState::Working => TaskPayload::Working,
            JobState::Cancelled => TaskPayload::Cancelled,
            JobState::Done { result } => {
                let result = serde_json::to_value(shown(result.clone())).unwrap_or_default();
                let Value::Object(result) = result else {
                    return Err(ErrorData::internal_error("The result has no JSON form.", None));
                };
                TaskPayload::Completed { result }
            }
        };
        Ok(GetTaskResult::new(DetailedTask::new(task(&job, &output), payload)))
    }

    /// `tasks/cancel`.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), ErrorData> {
        let job = self.known_job(id).await?;
        if self.scope < Scope::Write {
            return Err(ErrorData::invalid_request(
                "The token may only read; cancelling needs the scope `write`.",
                None,
            ));
        }
        if job.state != JobState::Working {
            return Ok(());
        }
        let context = self.tool_context(&job.call_id, Some(&vm_of(&job)));
        match self.mcp.tools().kill(&context, &job.tool, &job.arguments).await {
            Ok(()) | Err(VmError::Gone | VmError::NotFound(_)) => {}
            Err(error) => return Err(protocol_error(&error.into())),
        }
        self.changed_files().await;
        let now = self.now();
        let noted = tool_jobs::finish(self.store(), job, JobState::Cancelled, now).await;
        noted.map(|_| ()).map_err(|error| protocol_error(&error))
    }

    /// Looks at a job in the VM that it runs in, and notes its end.
    async fn follow(&self, job: ToolJob) -> AppResult<(ToolJob, String)> {
        let lease = lease::load(self.store(), self.ambient(), &self.project.project_id).await?;
        if lease.epoch != job.epoch {
            let now = self.now();
            let job = tool_jobs::finish(self.store(), job, JobState::Done { result: lost() }, now).await?;
            return Ok((job, String::new()));
        }
        // A VM that was paused meanwhile goes on where it was.
        let vm_id = match ready::ready_of(&lease) {
            Some(ready) => ready.vm_id,
            None => self.ready_vm().await?.vm_id,
        };
        self.look_at(job, &vm_id, LOOK).await
    }

    /// Asks the tool how the job stands; its end is noted, with what follows it.
    pub(crate) async fn look_at(
        &self,
        job: ToolJob,
        vm_id: &str,
        wait: Duration,
    ) -> AppResult<(ToolJob, String)> {
        if job.state != JobState::Working || job.vm_id != vm_id {
            return Ok((job, String::new()));
        }
        let context = self.tool_context(&job.call_id, Some(&vm_of(&job)));
        let result = match self.mcp.tools().poll(&context, &job.tool, &job.arguments, wait).await {
            Ok(ToolProgress::Running { output, .. }) => return Ok((job, output)),
            Ok(ToolProgress::Done(result)) => result,
            Err(VmError::Gone) => self.vm_is_gone(&context).await?,
            Err(VmError::Paused) => {
                self.vm_is_paused(&context).await?;
                return Ok((job, String::new()));
            }
            Err(VmError::NotFound(_)) => lost(),
            Err(error) => return Err(error.into()),
        };
        self.changed_files().await;
        let job = tool_jobs::finish(self.store(), job, JobState::Done { result }, self.now()).await?;
        Ok((job, String::new()))
    }

    /// Looks after jobs that nobody asked for: what they installed must be noted before more is.
    pub(crate) async fn settle_jobs(&self, ready: &ReadyVm) {
        let id = &self.project.project_id;
        let open = match tool_jobs::working(self.store(), id, SETTLED_AT_ONCE).await {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(project.id = %id, %error, "open jobs could not be listed");
                return;
            }
        };
        let watched = |job: &ToolJob| pvm_tools::entry(&job.tool).is_some_and(|entry| entry.long);
        for job in open.into_iter().filter(|job| job.epoch == ready.epoch && watched(job)) {
            let call = job.call_id.clone();
            if let Err(error) = self.look_at(job, &ready.vm_id, Duration::ZERO).await {
                tracing::debug!(command.id = call, %error, "an open job could not be looked at");
            }
        }
    }

    async fn changed_files(&self) {
        self.mcp.saver().request_save(&self.project.project_id).await;
    }
}

fn vm_of(job: &ToolJob) -> ReadyVm {
    ReadyVm { vm_id: job.vm_id.clone(), epoch: job.epoch, boot_id: String::new() }
}
