//! The recipe: which installs and environment steps succeeded, in order, so that a new VM gets them again.

use std::time::Duration;

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::install;
use pvm_domain::text::{head_and_tail, tail};
use pvm_domain::vm::{FailedStep, InstallStep, VmRecipe};
use serde_json::json;

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, Clock, RunCommands, RunReport, RunSpec, RunState};
use crate::store::{ReadStore, Tx, WriteStore};
use crate::vm::provision::of_operation;

/// Steps of a recipe: one record has them all, and a new VM takes a while to repeat them.
const STEPS: usize = 200;
/// Bytes of a line, and of its last output, that are told of a step that failed.
const SHOWN_BYTES: usize = 500;
/// Steps of one replay that are told to have failed.
const FAILED_TOLD: usize = 20;
/// Replaying one step may take this long, in seconds: installs from a registry.
const STEP_TIMEOUT_SECS: u64 = 1_800;

/// The recipe of a project; an empty one where nothing was recorded.
///
/// # Errors
/// Of the store.
pub async fn load(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<VmRecipe> {
    let empty = || VmRecipe {
        project_id: project_id.clone(),
        template: None,
        env: std::collections::BTreeMap::new(),
        installs: Vec::new(),
        replayed_epoch: 0,
        failed: Vec::new(),
        version: 0,
    };
    Ok(store.get(&keys::vm_recipe(project_id)).await?.unwrap_or_else(empty))
}

/// Records that `step` succeeded; one that is recorded already stays where it is.
///
/// # Errors
/// Of the store.
pub async fn record(store: &impl WriteStore, project_id: &ProjectId, step: InstallStep) -> AppResult<()> {
    for _ in 0..8 {
        let mut recipe = load(store, project_id).await?;
        let same =
            |known: &InstallStep| known.command == step.command && known.working_dir == step.working_dir;
        if recipe.installs.iter().any(same) {
            return Ok(());
        }
        if recipe.installs.len() >= STEPS {
            return Err(AppError::new(ErrorCode::Conflict, "The recipe of this project's VM is full."));
        }
        recipe.replayed_epoch = recipe.replayed_epoch.max(step.epoch);
        recipe.installs.push(step.clone());
        recipe.failed.retain(|failed| failed.command != shown(&step.command));
        match store.commit(Tx::new().update(&mut recipe)).await {
            Ok(_) => return Ok(()),
            Err(crate::store::StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The recipe keeps changing; try again."))
}

/// Where a shell line ran.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its directory; `None` where that is not known, or is no place that a new VM has.
    pub working_dir: Option<&'a str>,
    /// As whom.
    pub user: &'a str,
    /// In which epoch.
    pub epoch: u64,
}

/// Records the installs of a shell line that succeeded, where it has any. Failing to is not the caller's trouble: the
/// packages are there.
pub async fn record_line(store: &impl WriteStore, project_id: &ProjectId, line: &str, place: Place<'_>) {
    for found in install::of_line(line) {
        let working_dir = match place.working_dir {
            _ if !found.is_local => "/",
            Some(dir) => dir,
            None => continue,
        };
        let step = InstallStep {
            command: found.command,
            working_dir: working_dir.to_owned(),
            user: place.user.to_owned(),
            epoch: place.epoch,
        };
        if let Err(error) = record(store, project_id, step).await {
            tracing::warn!(project.id = %project_id, %error, "an install could not be noted");
        }
    }
}

/// How far a replay got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// All steps are in the VM.
    Done,
    /// A step is still running: ask again.
    Running,
}

/// Replays what the VM does not have yet, waiting at most `wait` for the step under way. Every step runs through the
/// journal under a name made of epoch and place, so that a repeated call attaches to it. A VM whose filesystem was kept
/// has a marker and needs nothing.
///
/// # Errors
/// Of the VM or the store. A step that fails is told and passed over: the project must come up without it.
pub async fn replay<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
    wait: Duration,
) -> AppResult<Replay> {
    let (lease, ready) = of_operation(store, ambient, project_id, operation).await?;
    let Some(ready) = ready else { return Ok(Replay::Done) };
    let mut recipe = load(store, project_id).await?;
    if recipe.installs.is_empty() || recipe.replayed_epoch >= lease.epoch {
        return Ok(Replay::Done);
    }
    let wanted = recipe.installs.len();
    if kept(vm, &ready.vm_id, lease.epoch, wanted).await? {
        return note_replayed(store, &mut recipe, lease.epoch, Tx::new()).await;
    }
    let mut failed = Vec::new();
    for (place, step) in recipe.installs.iter().enumerate() {
        let spec = RunSpec {
            run_id: format!("recipe-{}-{place}", lease.epoch),
            command: step.command.clone(),
            working_dir: step.working_dir.clone(),
            env: std::collections::BTreeMap::new(),
            stdin: None,
            user: step.user.clone(),
            timeout_secs: Some(STEP_TIMEOUT_SECS),
        };
        let report = vm.start_run(&ready.vm_id, &spec, wait).await?;
        if report.state == RunState::Running {
            return Ok(Replay::Running);
        }
        if report.exit_code != Some(0) {
            tracing::warn!(project.id = %project_id, place, exit_code = ?report.exit_code, "a recipe step failed");
            failed.push(failed_step(step, &report));
        }
    }
    mark(vm, &ready.vm_id, lease.epoch, wanted).await?;
    recipe.failed = failed.into_iter().take(FAILED_TOLD).collect();
    let told = told(&recipe, ambient);
    note_replayed(store, &mut recipe, lease.epoch, told).await
}

/// An event for each step that failed.
fn told(recipe: &VmRecipe, clock: &impl Clock) -> Tx {
    let log = LogId::Project(recipe.project_id.clone());
    recipe.failed.iter().fold(Tx::new(), |tx, step| {
        let data = json!({"command": step.command, "exit_code": step.exit_code, "output": step.output});
        tx.append(&log, NewEvent::new(EventType::InstallFailed, clock.now(), data))
    })
}

fn shown(line: &str) -> String {
    head_and_tail(line, SHOWN_BYTES).0
}

fn failed_step(step: &InstallStep, report: &RunReport) -> FailedStep {
    let said = [&report.stdout.data[..], &report.stderr.data[..]].concat();
    let said = String::from_utf8_lossy(&said);
    FailedStep {
        command: shown(&step.command),
        exit_code: report.exit_code,
        output: tail(&said, SHOWN_BYTES).trim().to_owned(),
    }
}

const MARKER: &str = "/var/lib/pvm/recipe";

async fn root_line(vm: &impl RunCommands, vm_id: &str, run_id: String, line: String) -> AppResult<bool> {
    let spec = RunSpec {
        run_id,
        command: line,
        working_dir: "/".to_owned(),
        env: std::collections::BTreeMap::new(),
        stdin: None,
        user: "root".to_owned(),
        timeout_secs: Some(30),
    };
    Ok(vm.start_run(vm_id, &spec, Duration::from_secs(20)).await?.exit_code == Some(0))
}

/// Whether this VM's filesystem has `steps` steps already (it was resumed, not made anew).
async fn kept(vm: &impl RunCommands, vm_id: &str, epoch: u64, steps: usize) -> AppResult<bool> {
    let line = format!("[ \"$(cat {MARKER} 2>/dev/null)\" = {steps} ]");
    root_line(vm, vm_id, format!("recipe-{epoch}-kept-{steps}"), line).await
}

/// Leaves the mark that `kept` looks for.
///
/// # Errors
/// Of the VM.
pub async fn mark(vm: &impl RunCommands, vm_id: &str, epoch: u64, steps: usize) -> AppResult<()> {
    let line = format!("mkdir -p /var/lib/pvm && echo {steps} > {MARKER}");
    root_line(vm, vm_id, format!("recipe-{epoch}-mark-{steps}"), line).await.map(|_| ())
}

/// Notes what the VM has now, together with what there is to tell.
async fn note_replayed(
    store: &impl WriteStore,
    recipe: &mut VmRecipe,
    epoch: u64,
    told: Tx,
) -> AppResult<Replay> {
    recipe.replayed_epoch = epoch;
    match store.commit(told.update(recipe)).await {
        Ok(_) | Err(crate::store::StoreError::Conflict { .. }) => Ok(Replay::Done),
        Err(other) => Err(other.into()),
    }
}
