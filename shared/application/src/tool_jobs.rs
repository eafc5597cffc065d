//! Tool calls that outlive the request that made them: noted when the request ends first, so that whoever asks later
//! gets the result, and what follows a call (its note in the recipe, a save of the workspace) is done once it ended.

use jiff::SignedDuration;
use pvm_domain::Timestamp;
use pvm_domain::ids::ProjectId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::AppResult;
use crate::keys;
use crate::ports_tools::ToolResult;
use crate::records::record;
use crate::store::{Listing, ReadStore, StoreError, Tx, WriteStore};

/// How long a job can be asked for, in seconds: a day, as long as a command may run.
pub const JOB_SECS: u64 = 86_400;

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// It runs.
    Working,
    /// It ended.
    Done {
        /// Its result.
        result: ToolResult,
    },
    /// It was cancelled.
    Cancelled,
}

/// A tool call under way, or its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolJob {
    /// The project.
    pub project_id: ProjectId,
    /// The call's id, also that of its run in the VM's journal.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// Its arguments, without those that only the start needs.
    pub arguments: Value,
    /// The VM it runs in.
    pub vm_id: String,
    /// The VM's epoch.
    pub epoch: u64,
    /// How it stands.
    pub state: JobState,
    /// When the call was made.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// When it is forgotten.
    pub until: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

record!(ToolJob, "tool_job", |r| keys::tool_job(&r.project_id, &r.call_id), expires: Some(r.until));

impl ToolJob {
    /// A call that has just been found to outlive its request.
    pub fn new(
        project_id: &ProjectId,
        call_id: &str,
        tool: &str,
        arguments: Value,
        vm: &crate::vm::ReadyVm,
        now: Timestamp,
    ) -> Self {
        let keep = SignedDuration::from_secs(JOB_SECS.cast_signed());
        Self {
            project_id: project_id.clone(),
            call_id: call_id.to_owned(),
            tool: tool.to_owned(),
            arguments,
            vm_id: vm.vm_id.clone(),
            epoch: vm.epoch,
            state: JobState::Working,
            created_at: now,
            updated_at: now,
            until: now.saturating_add(keep).unwrap_or(now),
            version: 0,
        }
    }
}

/// Notes a job; one that is noted already stays as it is.
///
/// # Errors
/// Of the store.
pub async fn note(store: &impl WriteStore, mut job: ToolJob) -> AppResult<()> {
    match store.commit(Tx::new().create(&mut job)).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// The job of that call, if there is one and it is not forgotten.
///
/// # Errors
/// Of the store.
pub async fn load(
    store: &impl ReadStore,
    project_id: &ProjectId,
    call_id: &str,
    now: Timestamp,
) -> AppResult<Option<ToolJob>> {
    let found: Option<ToolJob> = store.get(&keys::tool_job(project_id, call_id)).await?;
    Ok(found.filter(|job| now < job.until))
}

/// Jobs among the newest of a project that are not known to have ended.
///
/// # Errors
/// Of the store.
pub async fn working(store: &impl ReadStore, project_id: &ProjectId, newest: u32) -> AppResult<Vec<ToolJob>> {
    let listing = Listing::of(keys::project_partition(project_id), "JOB#").page(newest, None).newest_first();
    let page = store.list::<ToolJob>(listing).await?;
    Ok(page.items.into_iter().filter(|job| job.state == JobState::Working).collect())
}

/// Notes how a job ended. Answers the job as it stands: where somebody else was first, theirs holds.
///
/// # Errors
/// Of the store.
pub async fn finish(
    store: &impl WriteStore,
    mut job: ToolJob,
    state: JobState,
    now: Timestamp,
) -> AppResult<ToolJob> {
    job.state = state;
    job.updated_at = now;
    match store.commit(Tx::new().update(&mut job)).await {
        Ok(_) => Ok(job),
        Err(StoreError::Conflict { .. }) => {
            let known = load(store, &job.project_id, &job.call_id, now).await?;
            Ok(known.unwrap_or(job))
        }
        Err(other) => Err(other.into()),
    }
}
