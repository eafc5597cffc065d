//! StartLanes: the lanes of a parallel run. Each agent gets a copy of the workspace and a run of its own, worked on by an
//! execution of its own; when all have ended, their work is merged in the agents' order and conflicts are told.

use std::collections::BTreeMap;

use pvm_contracts::steps::{NextStep, RunInput, StepControl, WaitingInput};
use pvm_domain::conversation::core::{Input, Phase, Rules, RunCore};
use pvm_domain::conversation::{Conversation, Lane, Mode, Run, RunStatus, lane_run, results_message};
use pvm_domain::event::{EventType, NewEvent};
use serde_json::json;

use super::continue_run::start;
use super::draft::{Draft, Extra, load_conversation, load_run};
use super::ensure_vm::{holder, note_held};
use super::meter;
use super::step::{Ask, Meter, TRIES, pause, step};
use super::worktrees::{Told, WITHIN, directory, report, script};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, ConnectVm, RunCommands, SendTask, StartExecution};
use crate::store::{StoreError, WriteStore};
use crate::vm::{self, ReadyVm};

/// The step. It is entered to start the lanes, and again to merge them; either way the token ends the wait.
///
/// # Errors
/// `vm_not_ready`; of the store, the VM or the workflow engine. Each may be tried again.
pub async fn start_lanes<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    input: WaitingInput,
) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution + SendTask,
    V: ConnectVm + RunCommands,
    A: Ambient,
{
    let run = load_run(store, &input.conversation_id, &input.run_id).await?;
    let Phase::Lanes { open } = &run.core.phase else {
        // It went on, or ended, before: the wait ends at once.
        return join(workflow, &run, &input.token).await;
    };
    let ready = vm::ready(store, workflow, vm, ambient, &run.project_id, WITHIN).await?;
    vm::hold(store, ambient, &run.project_id, &holder(&run)).await?;
    let run = note_held(store, ambient, run.clone(), ready.epoch, 0).await?;
    if open.is_empty() {
        merge(store, vm, ambient, &run, &ready).await?;
        return join(workflow, &run, &input.token).await;
    }
    let dir = directory(&run);
    let all: Vec<String> = run.agents.iter().map(|agent| agent.agent_id.clone()).collect();
    script(vm, &run, &ready, "make", &dir, &all).await?;
    let lanes = plan(store, ambient, &run, &ready, &dir, &input.token).await?;
    for lane in lanes.iter().filter(|lane| !lane.is_over()) {
        start(workflow, lane).await?;
    }
    // Lanes that ended before the token was stored could not send it.
    note_ended(store, workflow, ambient, &run).await
}

/// Ends the workflow's wait; its next state is Think.
async fn join(tasks: &impl SendTask, run: &Run, token: &str) -> AppResult<()> {
    let input = RunInput {
        conversation_id: run.conversation_id.clone(),
        run_id: run.run_id.clone(),
        segment: run.segment,
    };
    let output = serde_json::to_value(input.output(StepControl::next(NextStep::Think))).map_err(|error| {
        AppError::new(ErrorCode::Internal, "The answer to the workflow cannot be written.").because(error)
    })?;
    tasks.send_success(token, &output).await?;
    Ok(())
}

/// Records the lanes' runs, once, and the token that waits for them.
async fn plan<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    run: &Run,
    ready: &ReadyVm,
    dir: &str,
    token: &str,
) -> AppResult<Vec<Run>> {
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, &run.conversation_id).await?;
        let mut parent = load_run(store, &run.conversation_id, &run.run_id).await?;
        let mut draft = Draft::new(store, conversation, ambient.now());
        if parent.join_tokens.is_empty() {
            parent.core.usage.transitions += meter::LANES;
        }
        parent.join_tokens.push(token.to_owned());
        let mut lanes = Vec::new();
        for index in (0..).take(parent.agents.len()) {
            let key = crate::keys::run(&parent.conversation_id, &lane_run(&parent.run_id, index));
            if let Some(known) = store.get::<Run>(&key).await? {
                lanes.push(known);
                continue;
            }
            let Some(mut lane) = lane(&parent, &draft.conversation, index, ready, dir, draft.now) else {
                continue;
            };
            draft.write(|tx| tx.create(&mut lane));
            lanes.push(lane);
        }
        draft.save(&mut parent);
        match draft.commit().await {
            Ok(_) => return Ok(lanes),
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The run keeps changing; try again in a moment."))
}

/// The run of one lane: one agent, one turn. What the other lanes use counts against the budgets as they go on, see
/// [`family::spent`](super::family::spent).
fn lane(
    parent: &Run,
    conversation: &Conversation,
    index: u32,
    ready: &ReadyVm,
    dir: &str,
    now: pvm_domain::Timestamp,
) -> Option<Run> {
    let at = usize::try_from(index).ok()?;
    let (agent, seat) = (parent.agents.get(at)?.clone(), parent.core.rules.seats.get(at)?.clone());
    let mut spent = conversation.usage;
    spent.add(&parent.core.usage);
    let worktree = format!("{dir}/{}", agent.agent_id);
    let rules = Rules { mode: Mode::RoundRobin, seats: vec![seat], spent, ..parent.core.rules.clone() };
    Some(Run {
        run_id: lane_run(&parent.run_id, index),
        status: RunStatus::Running,
        outcome: None,
        agents: vec![agent],
        core: RunCore::new(rules),
        segment: 1,
        lane: Some(Lane { parent: parent.run_id.clone(), index, worktree, fence: ready.epoch }),
        join_tokens: Vec::new(),
        vm_epoch: None,
        vm_since: None,
        unkilled: Vec::new(),
        due_at: now,
        created_at: now,
        finished_at: None,
        version: 0,
        ..parent.clone()
    })
}

/// Tells the parent of lanes that have ended; the last one ends its wait. Safe to repeat.
///
/// # Errors
/// Of the store or the workflow engine.
pub(crate) async fn note_ended<S: WriteStore, K: SendTask, A: Ambient>(
    store: &S,
    tasks: &K,
    ambient: &A,
    parent: &Run,
) -> AppResult<()> {
    let mut parent = load_run(store, &parent.conversation_id, &parent.run_id).await?;
    if let Phase::Lanes { open } = parent.core.phase.clone() {
        for index in open {
            let key = crate::keys::run(&parent.conversation_id, &lane_run(&parent.run_id, index));
            let Some(lane) = store.get::<Run>(&key).await?.filter(Run::is_over) else { continue };
            let ask = Ask::Input(Input::LaneEnded { index, usage: lane.core.usage });
            let (extra, spent) = (Extra::default(), Meter::default());
            let (conversation, run) = (&parent.conversation_id, &parent.run_id);
            parent = step(store, ambient, conversation, run, None, &ask, &extra, spent).await?.run;
        }
    }
    let waits = !matches!(&parent.core.phase, Phase::Lanes { open } if !open.is_empty());
    if waits {
        for token in &parent.join_tokens {
            join(tasks, &parent, token).await?;
        }
    }
    Ok(())
}

/// Merges what the lanes did, in the agents' order, and tells how it went.
async fn merge<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    run: &Run,
    ready: &ReadyVm,
) -> AppResult<()> {
    let all: Vec<String> = run.agents.iter().map(|agent| agent.agent_id.clone()).collect();
    let output = script(vm, run, ready, "merge", &directory(run), &all).await?;
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, &run.conversation_id).await?;
        let mut parent = load_run(store, &run.conversation_id, &run.run_id).await?;
        if !matches!(&parent.core.phase, Phase::Lanes { open } if open.is_empty()) {
            return Ok(());
        }
        let mut ends = BTreeMap::new();
        for (index, agent) in (0..).zip(&all) {
            let lane = load_run(store, &run.conversation_id, &lane_run(&run.run_id, index)).await?;
            ends.insert(agent.clone(), lane);
        }
        let told = report(&all, &ends, &output);
        let mut draft = Draft::new(store, conversation, ambient.now());
        place(&mut draft, &parent, &told);
        parent.core.usage.transitions += meter::LANES;
        let merged = Input::Merged { conflicts: !told.conflicts.is_empty() };
        draft.apply(&mut parent, merged, &Extra::default()).await?;
        draft.save(&mut parent);
        match draft.commit().await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The run keeps changing; try again in a moment."))
}

fn place<S: WriteStore>(draft: &mut Draft<'_, S>, run: &Run, told: &Told) {
    // Model calls of the run itself begin with step 1, so step 0 is free for the merge.
    draft.place_of_system(run, results_message(&run.run_id, 0), &told.text);
    for (agent, path) in &told.conflicts {
        let kept = format!("{path}.{agent}");
        let data = json!({"run_id": run.run_id, "path": path, "kept_as": kept});
        draft.tell(NewEvent::new(EventType::FileConflict, draft.now, data).by(agent));
    }
}
