//! StartLanes: the lanes of a parallel run. Each agent gets a copy of the workspace and a run of its own, worked on by an
//! execution of its own; when all have ended, their work is merged in the agents' order and conflicts are told.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_contracts::steps::{NextStep, RunInput, StepControl, WaitingInput};
use pvm_domain::conversation::core::{Input, Phase, Rules, RunCore};
use pvm_domain::conversation::{
    Author, Conversation, Lane, Message, MessageEnd, Mode, OutcomeKind, Run, RunStatus, lane_run,
    results_message,
};
use pvm_domain::event::{EventType, NewEvent};
use pvm_domain::file::WORKSPACE;
use serde_json::json;

use super::continue_run::start;
use super::draft::{Draft, Extra, load_conversation, load_run};
use super::ensure_vm::{holder, note_held};
use super::meter;
use super::step::{Ask, Meter, TRIES, pause, step};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, ConnectVm, RunCommands, RunReport, RunSpec, RunState, SendTask, StartExecution};
use crate::store::{StoreError, WriteStore};
use crate::vm::{self, ReadyVm};

/// Makes copies of the workspace and merges them.
const SCRIPT: &str = include_str!("lanes.sh");
/// The VM and one script may take this long within one entry of the step.
const WITHIN: Duration = Duration::from_secs(25);
/// A script is killed after this many seconds: a workspace of some gigabytes is copied in that time.
const SCRIPT_SECS: u64 = 600;

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

/// Where the lanes of a run are in the VM: in the home of `user`, who must be able to write there on every server.
fn directory(run: &Run) -> String {
    format!("/home/user/.local/state/pvm/lanes/{}", run.run_id)
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

/// The run of one lane: one agent, one turn. Budgets are checked against what was used when the lanes began: lanes do not
/// see what the others use meanwhile.
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

#[derive(Debug, PartialEq, Eq)]
struct Told {
    text: String,
    /// Agent and path.
    conflicts: Vec<(String, String)>,
}

fn report(agents: &[String], lanes: &BTreeMap<String, Run>, output: &str) -> Told {
    let words = |line: &str, word: &str| {
        let rest = line.strip_prefix(word)?.strip_prefix(' ')?;
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((name.to_owned(), rest.to_owned()))
    };
    let of = |word: &str| output.lines().filter_map(|line| words(line, word)).collect::<Vec<_>>();
    let (merged, lost, conflicts) = (of("MERGED"), of("LOST"), of("CONFLICT"));
    let mut text = vec!["The work of all agents was merged into the workspace, in this order:".to_owned()];
    for agent in agents {
        let ended = lanes.get(agent).and_then(|lane| lane.outcome.as_ref());
        let how = match ended.filter(|outcome| outcome.kind != OutcomeKind::Completed) {
            Some(outcome) => {
                format!(" (ended early: {})", outcome.detail.as_deref().unwrap_or("no reason is known"))
            }
            None => String::new(),
        };
        let what = match merged.iter().find(|(name, _)| name == agent) {
            Some((_, count)) => format!("{} changed files", count.trim()),
            None if lost.iter().any(|(name, _)| name == agent) => "lost with the machine".to_owned(),
            None => "nothing".to_owned(),
        };
        text.push(format!("- {agent}: {what}{how}"));
    }
    for (agent, path) in &conflicts {
        text.push(format!(
            "Conflict: {path} was changed by {agent} and before; its version is {path}.{agent}"
        ));
    }
    Told { text: text.join("\n"), conflicts }
}

fn place<S: WriteStore>(draft: &mut Draft<'_, S>, run: &Run, told: &Told) {
    // Model calls of the run itself begin with step 1, so step 0 is free for the merge.
    let message_id = results_message(&run.run_id, 0);
    let now = draft.now;
    let created = json!({"message_id": message_id, "author": "system", "run_id": run.run_id});
    draft.tell(NewEvent::new(EventType::MessageCreated, now, created));
    let completed = json!({"message_id": message_id, "author": "system", "run_id": run.run_id, "text": told.text,
        "end": MessageEnd::Complete, "tool_calls": []});
    draft.tell(NewEvent::new(EventType::MessageCompleted, now, completed));
    for (agent, path) in &told.conflicts {
        let kept = format!("{path}.{agent}");
        let data = json!({"run_id": run.run_id, "path": path, "kept_as": kept});
        draft.tell(NewEvent::new(EventType::FileConflict, now, data).by(agent));
    }
    draft.place(Message {
        conversation_id: run.conversation_id.clone(),
        place: 0,
        message_id,
        run_id: run.run_id.clone(),
        author: Author::System,
        text: told.text.clone(),
        calls: Vec::new(),
        lane: None,
        note: None,
        provider: None,
        opaque: Vec::new(),
        opaque_after: Vec::new(),
        end: MessageEnd::Complete,
        created_at: now,
        version: 0,
    });
}

/// Runs the script once per action and VM, and answers its output.
async fn script(
    vm: &impl RunCommands,
    run: &Run,
    ready: &ReadyVm,
    action: &str,
    dir: &str,
    names: &[String],
) -> AppResult<String> {
    // Names of agents are [a-z0-9_-]: nothing of them needs quoting.
    let spec = RunSpec {
        run_id: format!("{}-{action}-{}", run.run_id, ready.epoch),
        command: format!("bash -s -- {action} {dir} {WORKSPACE} {}", names.join(" ")),
        working_dir: "/".to_owned(),
        env: BTreeMap::new(),
        stdin: Some(SCRIPT.to_owned()),
        user: "user".to_owned(),
        timeout_secs: Some(SCRIPT_SECS),
    };
    let report: RunReport = vm.start_run(&ready.vm_id, &spec, WITHIN).await?;
    let text = String::from_utf8_lossy(&report.stdout.data).into_owned();
    match (report.state, report.exit_code) {
        (RunState::Exited, Some(0)) => Ok(text),
        (RunState::Running, _) => {
            Err(AppError::new(ErrorCode::Unavailable, "The workspace's copies are still being worked on."))
        }
        _ => {
            let why = String::from_utf8_lossy(&report.stderr.data).into_owned();
            let why = pvm_domain::text::head_and_tail(why.trim(), 1000).0;
            let detail = format!("The workspace could not be copied for parallel work: {why}");
            Err(AppError::new(ErrorCode::VmFailed, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn run_script(action: &str, dir: &Path, workspace: &Path, names: &[&str]) -> String {
        let mut command = Command::new("bash");
        command.arg("-s").arg("--").arg(action).arg(dir).arg(workspace).args(names);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), SCRIPT.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn lanes_are_merged_in_order_and_both_versions_of_a_conflict_stay() {
        let home = tempfile::tempdir().unwrap();
        let (workspace, dir) = (home.path().join("workspace"), home.path().join("lanes/run"));
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = |path: &str| std::fs::read_to_string(home.path().join(path)).ok();
        write("workspace/app.py", "one\ntwo\n");
        write("workspace/old.txt", "old\n");
        write("workspace/.git/HEAD", "not ours\n");
        run_script("make", &dir, &workspace, &["dev", "design"]);
        run_script("make", &dir, &workspace, &["dev", "design"]);
        assert_eq!(read("lanes/run/dev/app.py").as_deref(), Some("one\ntwo\n"));
        write("lanes/run/dev/app.py", "one\ntwo by dev\n");
        write("lanes/run/dev/new dir/dev file.txt", "dev\n");
        std::fs::remove_file(dir.join("dev/old.txt")).unwrap();
        write("lanes/run/design/app.py", "one\ntwo by design\n");
        write("lanes/run/design/style.css", "a {}\n");
        write("workspace/meanwhile.txt", "user\n");
        let output = run_script("merge", &dir, &workspace, &["dev", "design"]);
        assert_eq!(output, "MERGED dev 3\nCONFLICT design app.py\nMERGED design 2\n");
        assert_eq!(read("workspace/app.py").as_deref(), Some("one\ntwo by dev\n"));
        assert_eq!(read("workspace/app.py.design").as_deref(), Some("one\ntwo by design\n"));
        assert_eq!(read("workspace/new dir/dev file.txt").as_deref(), Some("dev\n"));
        assert_eq!(read("workspace/style.css").as_deref(), Some("a {}\n"));
        assert_eq!(read("workspace/meanwhile.txt").as_deref(), Some("user\n"));
        assert_eq!(read("workspace/old.txt"), None);
        assert_eq!(read("workspace/.git/HEAD").as_deref(), Some("not ours\n"));
        std::fs::remove_dir_all(dir.join("design")).unwrap();
        assert!(run_script("merge", &dir, &workspace, &["dev", "design"]).contains("LOST design"));
    }

    #[test]
    fn the_report_tells_what_was_merged_and_what_collided() {
        let agents = ["dev".to_owned(), "design".to_owned()];
        let told =
            report(&agents, &BTreeMap::new(), "MERGED dev 3\nCONFLICT design a b.py\nMERGED design 2\n");
        assert_eq!(told.conflicts, [("design".to_owned(), "a b.py".to_owned())]);
        assert!(told.text.contains("- dev: 3 changed files") && told.text.contains("a b.py.design"));
    }
}
