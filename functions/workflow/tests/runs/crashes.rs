//! The crash matrix: whoever acts on the world dies at every point at which it does, once and twice, in every mode and in
//! each way of dying. Whatever happens, the conversation ends as it would have without a crash: same transcript, same
//! commands, each of them once, same bill, VM given back, events without gaps.
//!
//! Points are counted over all functions and requests of a case. The first death is at a point that the calm story has;
//! the second may come while things are put right after the first. Pairs are drawn by a seed, which is printed; another
//! is taken from `PVM_SEED`. `PVM_CASES` bounds the cases of each scene.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use pvm_application::conversations;
use pvm_application::error::{AppResult, ErrorCode};
use pvm_application::idempotency::Claim;
use pvm_application::ports_model::{ModelRequest, TokenUsage};
use pvm_application::store::{StoreError, Tx, WriteStore};
use pvm_asl::CrashPoint;
use pvm_contracts::conversations::{
    CreateConversation, DecideApproval, Decision, MessageAccepted, SendMessage,
};
use pvm_domain::conversation::{ConversationStatus, Delivery, Mode, Usage};
use pvm_domain::event::{Event, EventType};
use pvm_domain::ids::ConversationId;
use pvm_domain::limits;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::rig::Rig;
use crate::rig::crash::Death;
use crate::rig::models::{Say, say};

/// Rigs at work at the same time.
const AT_ONCE: usize = 4;
/// How many cases a matrix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// A look: every tenth point.
    Few,
    /// The usual: every second point, the ways of dying in turn.
    Usual,
    /// The long run: each point in each way.
    All,
}

impl Size {
    /// Single deaths are at every so many points.
    fn stride(self) -> usize {
        match self {
            Self::Few => 10,
            Self::Usual => 2,
            Self::All => 1,
        }
    }

    /// Pairs of deaths.
    fn pairs(self) -> usize {
        match self {
            Self::Few => 3,
            Self::Usual => 8,
            Self::All => 300,
        }
    }
}

/// The ways of dying. A function that lingers comes back while the next try is at work, or long after it.
const DEATHS: [Death; 4] = [Death::Function, Death::Process, Death::Lingering(1), Death::Lingering(70)];

/// A case that takes longer than this hangs; it takes half a second of one core.
const HANGS: Duration = Duration::from_mins(5);

/// A message that takes most of a window, see [`Scene::Compaction`].
static LONG: LazyLock<String> = LazyLock::new(|| format!("Long {}", "x".repeat(20_000)));

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// Two agents with tools, `/vm` lines and a long command, in this mode.
    Talk(Mode),
    /// An agent that must ask: the first call is approved, the second denied.
    Approval,
    /// The same, and nobody answers.
    Silence,
    /// An agent with one long command.
    Alone,
    /// A second message comes while the first is worked off.
    Queue,
    /// The user cancels in the middle of a long command and says something else.
    Cancel,
    /// The same, while two agents work in lanes.
    CancelLanes,
    /// A message joins the run while a long command runs.
    Steer,
    /// A message ends the run in the middle of a long command.
    Interrupt,
    /// An agent's window is nearly full, so that its context is summarised.
    Compaction,
    /// The VM ends with the first command.
    LostVm,
    /// The execution's steps are nearly used up, so that the run goes on in another.
    Segments,
    /// The conversation is forked when it is over, and the fork goes on.
    Fork,
}

/// What a conversation left behind, as far as it must not depend on crashes.
#[derive(Debug, PartialEq)]
pub(crate) struct Story {
    transcript: Vec<String>,
    events: Vec<&'static str>,
    commands: Vec<String>,
    killed: Vec<String>,
    pub status: ConversationStatus,
    spent: (u32, u32, u32, u64, u64, u64),
    pub holders: usize,
    /// Why runs ended otherwise than complete.
    reasons: Vec<String>,
}

fn script(request: &ModelRequest) -> Say {
    let place = &request.place;
    if request.system.contains("hand-over notes") {
        return say("Notes.");
    }
    match (place.agent_id.as_str(), place.initial_message.as_str(), place.agent_step) {
        (_, "Deploy", 0) => say("May I?")
            .call("change", json!({"what": "deploy now"}))
            .call("look", json!({"what": "around"})),
        (_, "Deploy", 1) => say("Again?").call("change", json!({"what": "deploy twice"})),
        (_, "Wait", 0) => say("Waiting.").call("change", json!({"what": "slow 300"})),
        (_, "Brief", 0) => say("Waiting.").call("change", json!({"what": "slow 60"})),
        (_, "Two", _) => say("Two it is."),
        (_, "Lose", 0) => say("Trying.").call("change", json!({"what": "it"})),
        (_, long, 0) if long.starts_with("Long") => {
            let usage = TokenUsage { input: 90_000, output: 10, cost_microusd: 600, ..TokenUsage::default() };
            Say { usage, ..say("Reading.\n/vm first") }
        }
        ("dev_agent", "Go", 0) => {
            say("Looking.").call("look", json!({"what": "a"})).call("look", json!({"what": "b"}))
        }
        ("dev_agent", "Go", 1) => {
            say("@designer_agent take it.\n/vm mkdir app\n/vm fail").call("change", json!({"what": "c"}))
        }
        ("dev_agent", "Go", 2) => say("Done. @designer_agent"),
        ("designer_agent", "Go", 0) => say("Styling.").call("change", json!({"what": "slow 60"})),
        (agent, _, _) => say(if agent == "dev_agent" { "Good." } else { "Styled." }),
    }
}

/// Without time, which deaths cost: turns, calls of models and tools, tokens in and out, money.
fn spent(usage: &Usage) -> (u32, u32, u32, u64, u64, u64) {
    let Usage { turns, model_calls, tool_calls, input_tokens, output_tokens, cost_microusd, .. } = *usage;
    (turns, model_calls, tool_calls, input_tokens, output_tokens, cost_microusd)
}

/// A user's request, repeated as a client does until it is answered. Whoever asks holds one mark of the clock.
async fn ask<T, F>(rig: &Arc<Rig>, request: impl Fn(Arc<Rig>) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = AppResult<T>> + Send + 'static,
{
    for _ in 0..50 {
        let mut generation = rig.generation.subscribe();
        // Boxed: a request is a big future, and unoptimised builds would put several of it on one stack.
        let work = Box::pin(request(Arc::clone(rig)));
        tokio::select! {
            biased;
            answer = rig.points.mortal(work) => match answer {
                Some(Ok(answer)) => return answer,
                Some(Err(error)) if error.code == ErrorCode::Unavailable => {}
                Some(Err(error)) => panic!("{error:?}"),
                None => {}
            },
            _ = generation.changed() => {}
        }
        // At once, in simulated time: what the user heard meanwhile holds that still until they are answered.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the request was never answered");
}

async fn begin(
    rig: &Arc<Rig>,
    mode: Mode,
    agents: &'static [&'static str],
    message: &'static str,
) -> MessageAccepted {
    ask(rig, move |rig| async move {
        let claim = Claim::new(&rig.principal.owner, "begin", "create", b"").unwrap();
        let input = CreateConversation {
            agent_ids: agents.iter().map(|agent| (*agent).to_owned()).collect(),
            initial_message: message.to_owned(),
            conversation_id: None,
            mode,
            max_turns: None,
            budget: pvm_domain::conversation::Budget::default(),
            file_ids: Vec::new(),
        };
        conversations::create(rig.run_ports(), rig.asked(Some(&claim)), input).await
    })
    .await
}

async fn send(rig: &Arc<Rig>, id: &ConversationId, message: &'static str, delivery: Delivery) {
    let id = id.clone();
    ask(rig, move |rig| {
        let id = id.clone();
        async move {
            let claim = Claim::new(&rig.principal.owner, "send", "send", b"").unwrap();
            let input = SendMessage { message: message.to_owned(), delivery };
            let asked = rig.asked(Some(&claim));
            conversations::send(rig.run_ports(), &rig.vm, asked, id.as_str(), input).await
        }
    })
    .await;
}

async fn cancel(rig: &Arc<Rig>, id: &ConversationId) {
    let id = id.clone();
    ask(rig, move |rig| {
        let id = id.clone();
        async move {
            conversations::cancel(
                &rig.store,
                &rig.flow,
                &rig.vm,
                &rig.ambient,
                &rig.principal,
                &rig.project_id,
                id.as_str(),
            )
            .await
        }
    })
    .await;
}

/// Leaves the execution under way one step, instead of having two hundred in each case.
async fn nearly_use_up_segment(rig: &Arc<Rig>, id: &ConversationId) {
    loop {
        let active = rig.conversation(id).await.active_run.unwrap();
        let mut run = rig.run(id, &active).await;
        run.core.segment_steps = limits::STEPS_PER_SEGMENT - 1;
        match rig.store.inner.commit(Tx::new().update(&mut run)).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// Forks the conversation as it is now, and sends the fork a message.
async fn fork(rig: &Arc<Rig>, id: &ConversationId) -> ConversationId {
    let origin = id.clone();
    let fork = ask(rig, move |rig| {
        let id = origin.clone();
        async move {
            let claim = Claim::new(&rig.principal.owner, "fork", "fork", b"").unwrap();
            let (store, ambient, claim) = (&rig.store, &rig.ambient, Some(&claim));
            let (principal, project) = (&rig.principal, &rig.project_id);
            conversations::fork(store, ambient, principal, project, id.as_str(), None, claim).await
        }
    })
    .await;
    send(rig, &fork.conversation_id, "Two", Delivery::Queue).await;
    rig.settle().await;
    fork.conversation_id
}

/// Decides on what waits: "now" is approved, anything else denied.
async fn decide(rig: &Arc<Rig>, id: &ConversationId) {
    let found = conversations::get(&rig.store, &rig.principal, &rig.project_id, id.as_str()).await.unwrap();
    for approval in found.approvals {
        let yes = approval.arguments["what"] == "deploy now";
        let (id, approval_id) = (id.clone(), approval.approval_id.to_string());
        ask(rig, move |rig| {
            let (id, approval_id) = (id.clone(), approval_id.clone());
            let decision = if yes { Decision::Approve } else { Decision::Deny };
            async move {
                let input = DecideApproval { decision, request_hash: None, comment: None };
                let (store, flow, ambient) = (&rig.store, &rig.flow, &rig.ambient);
                let (principal, project) = (&rig.principal, &rig.project_id);
                conversations::decide(
                    store,
                    flow,
                    ambient,
                    principal,
                    project,
                    id.as_str(),
                    &approval_id,
                    input,
                )
                .await
            }
        })
        .await;
    }
}

/// The user of a scene: acts on what the log tells, at a distance in simulated time from it.
fn user(rig: &Arc<Rig>, scene: Scene) -> (watch::Sender<Option<ConversationId>>, JoinHandle<()>) {
    let mut heard = rig.store.watch.listen();
    let rig = Arc::clone(rig);
    let (sender, known) = watch::channel(None);
    let started = Arc::new(AtomicUsize::new(0));
    let listening = tokio::spawn(async move {
        while let Some((kind, mark)) = heard.recv().await {
            let (rig, mut known) = (Arc::clone(&rig), known.clone());
            let nth = started.fetch_add(usize::from(kind == EventType::ToolStarted), Ordering::SeqCst);
            tokio::spawn(async move {
                // The request that began it may still be on its way.
                let id = known.wait_for(Option::is_some).await.map(|id| id.clone());
                let Ok(Some(id)) = id else { return };
                match (scene, kind) {
                    (Scene::Approval, EventType::ApprovalRequired) => {
                        rig.clock.elapse(Duration::from_secs(20)).await;
                        decide(&rig, &id).await;
                    }
                    (Scene::Queue, EventType::ToolStarted) if nth == 0 => {
                        send(&rig, &id, "Two", Delivery::Queue).await;
                    }
                    (Scene::Steer, EventType::ToolStarted) => {
                        send(&rig, &id, "Two", Delivery::Steer).await;
                    }
                    (Scene::Interrupt, EventType::ToolStarted) => {
                        rig.clock.elapse(Duration::from_secs(10)).await;
                        send(&rig, &id, "Two", Delivery::Interrupt).await;
                    }
                    (Scene::Segments, EventType::RunStarted) => nearly_use_up_segment(&rig, &id).await,
                    // Both lanes are at work then.
                    (Scene::Cancel | Scene::CancelLanes, EventType::ToolStarted)
                        if nth == usize::from(scene == Scene::CancelLanes) =>
                    {
                        rig.clock.elapse(Duration::from_secs(10)).await;
                        cancel(&rig, &id).await;
                        send(&rig, &id, "Two", Delivery::Queue).await;
                    }
                    _ => {}
                }
                drop(mark);
            });
        }
    });
    (sender, listening)
}

/// The reason that a run's end tells, with its detail.
fn reason(event: &Event) -> Option<String> {
    let reason = event.data.get("reason").filter(|_| event.kind == EventType::RunFinished)?.as_str()?;
    Some(format!("{reason}: {}", event.data["detail"]))
}

/// Kinds of events, without what depends on when things happened: which tries there were and what was seen on the way.
fn told(events: &[Event]) -> Vec<&'static str> {
    let passing = [EventType::MessageReset, EventType::ToolOutput];
    let mut polls = BTreeSet::new();
    for event in events.iter().filter(|event| event.kind == EventType::ToolOutput) {
        let poll = (event.data["tool_call_id"].to_string(), event.data["poll"].as_u64().unwrap());
        assert!(polls.insert(poll), "one poll was told twice: {event:?}");
    }
    let kept = events.iter().filter(|event| !passing.contains(&event.kind));
    let mut kinds: Vec<&'static str> = kept.map(|event| event.kind.as_str()).collect();
    // Calls that only look run at the same time: which ends first is nobody's business.
    for calls in kinds.chunk_by_mut(|a, b| a.starts_with("tool.") && b.starts_with("tool.")) {
        calls.sort_unstable();
    }
    kinds
}

pub(crate) async fn start(scene: Scene) -> Arc<Rig> {
    let rig = Rig::new(script).await;
    if scene == Scene::LostVm {
        rig.vm.die_at_next_start();
    }
    if matches!(scene, Scene::Approval | Scene::Silence) {
        rig.define_careful().await;
    }
    rig
}

pub(crate) async fn play_on(rig: &Arc<Rig>, scene: Scene, case: &str) -> Story {
    const TWO: &[&str] = &["dev_agent", "designer_agent"];
    let (mode, agents, message): (Mode, &'static [&'static str], &'static str) = match scene {
        Scene::Talk(mode) => (mode, TWO, "Go"),
        Scene::Approval | Scene::Silence => (Mode::RoundRobin, &["careful"], "Deploy"),
        Scene::Queue => (Mode::RoundRobin, TWO, "Go"),
        Scene::Cancel | Scene::Alone | Scene::Interrupt => (Mode::RoundRobin, &["dev_agent"], "Wait"),
        Scene::Steer | Scene::Segments => (Mode::RoundRobin, &["dev_agent"], "Brief"),
        Scene::Compaction => (Mode::RoundRobin, &["dev_agent"], LONG.as_str()),
        Scene::LostVm => (Mode::RoundRobin, &["dev_agent"], "Lose"),
        Scene::Fork => (Mode::RoundRobin, &["dev_agent"], "Go"),
        Scene::CancelLanes => (Mode::Parallel, TWO, "Wait"),
    };
    let (known, listening) = user(rig, scene);
    let mark = pvm_asl::Clock::work(&rig.clock);
    let made = begin(rig, mode, agents, message).await;
    drop(mark);
    let id = &made.conversation_id;
    known.send_replace(Some(id.clone()));
    loop {
        let done = rig.store.watch.all_done();
        rig.settle().await;
        if done && rig.store.watch.all_done() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    listening.abort();
    let starts = rig.vm.starts();
    let mut journal = BTreeSet::new();
    for (vm, run, text) in &starts {
        assert!(journal.insert((vm, run)), "{text:?} was started twice: {case}");
    }
    let mut commands: Vec<String> =
        starts.into_iter().map(|(_, _, text)| text.lines().next().unwrap_or_default().to_owned()).collect();
    let log = rig.events(id).await;
    let mut events = told(&log);
    let mut transcript = rig.transcript(id).await;
    if scene == Scene::Fork {
        let fork = fork(rig, id).await;
        transcript.extend(rig.transcript(&fork).await);
        events.extend(told(&rig.events(&fork).await));
        let listed = conversations::list(&rig.store, &rig.principal, &rig.project_id, 100, None);
        assert_eq!(listed.await.unwrap().0.len(), 2, "a request that forked twice: {case}");
    }
    // What happens at the same time has no order that could be compared.
    let lanes = matches!(scene, Scene::Talk(Mode::Parallel) | Scene::CancelLanes);
    if lanes || matches!(scene, Scene::Queue | Scene::Steer) {
        events.sort_unstable();
    }
    if lanes {
        transcript.sort();
    }
    commands.sort();
    let conversation = rig.conversation(id).await;
    let holders = rig.lease().await.holders.len();
    Story {
        transcript,
        events,
        commands,
        killed: rig.vm.killed(),
        status: conversation.status,
        spent: spent(&conversation.usage),
        holders,
        reasons: log.iter().filter_map(reason).collect(),
    }
}

/// A case takes a fraction of a second; this is a bound for a hang, so that it is told with what stands still.
const HANG: Duration = Duration::from_mins(2);

/// Plays a scene with these deaths; answers the story and the points that were passed.
async fn play(scene: Scene, deadly: Vec<(usize, Death)>) -> (Story, Vec<&'static str>) {
    let rig = start(scene).await;
    rig.points.die_at(deadly.iter().copied());
    let case = format!("{scene:?} dying at {deadly:?}");
    let Ok(story) = tokio::time::timeout(HANG, play_on(&rig, scene, &case)).await else {
        panic!("{case} hangs: {:?}\nafter {:#?}\n{}", rig.clock, rig.points.passed(), rig.standing().await)
    };
    let points = rig.points.passed();
    rig.close().await;
    (story, points)
}

/// SplitMix64: the same seed draws the same cases everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % most as u64).unwrap()
    }
}

fn seed() -> u64 {
    std::env::var("PVM_SEED").map_or(20_260_101, |text| text.parse().expect("PVM_SEED is a number"))
}

fn cases(points: usize, size: Size) -> Vec<Vec<(usize, Death)>> {
    let mut draw = Draw(seed());
    let offset = draw.below(DEATHS.len());
    let each =
        (0..points).flat_map(|at| DEATHS.into_iter().enumerate().map(move |(way, death)| (at, way, death)));
    let stride = size.stride();
    let in_turn = |at: usize, way: usize| {
        at % stride == offset % stride && (at / stride + offset) % DEATHS.len() == way
    };
    let mut cases: Vec<Vec<(usize, Death)>> = each
        .filter(|(at, way, _)| size == Size::All || in_turn(*at, *way))
        .map(|(at, _, death)| vec![(at, death)])
        .collect();
    for _ in 0..size.pairs() {
        let first = draw.below(points);
        // The second death comes at once, soon, or anywhere later.
        let reach = [3, 15, points - first][draw.below(3)];
        let second = first + 1 + draw.below(reach);
        cases.push(vec![(first, DEATHS[draw.below(4)]), (second, DEATHS[draw.below(4)])]);
    }
    // A look at a few of them, spread over all.
    if let Some(most) = std::env::var("PVM_CASES").ok().and_then(|text| text.parse::<usize>().ok()) {
        let stride = cases.len().div_ceil(most.max(1));
        cases = cases.into_iter().step_by(stride).collect();
    }
    cases
}

async fn matrix(scene: Scene, size: Size) {
    let began = Instant::now();
    let (calm, points) = play(scene, Vec::new()).await;
    assert_eq!((calm.status, calm.holders), (ConversationStatus::Idle, 0), "{calm:?}");
    let cases = cases(points.len(), size);
    let count = cases.len();
    let played = futures::stream::iter(cases)
        .map(|deadly| {
            tokio::spawn(async move {
                // A bound for a hang, not a timing.
                let played = tokio::time::timeout(HANGS, play(scene, deadly.clone())).await;
                (played.unwrap_or_else(|_| panic!("{scene:?} dying at {deadly:?} hangs")).0, deadly)
            })
        })
        .buffer_unordered(AT_ONCE);
    let mut played = std::pin::pin!(played);
    while let Some(case) = played.next().await {
        let (story, deadly) = case.expect("see the panic above");
        let at: Vec<&str> = deadly.iter().filter_map(|(at, _)| points.get(*at).copied()).collect();
        assert_eq!(story, calm, "{scene:?} dying at {deadly:?} ({at:?})");
    }
    // Not by `eprintln!`, which is only shown of tests that fail.
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "{scene:?}: {count} cases over {} points in {:.1} s, seed {}",
        points.len(),
        began.elapsed().as_secs_f64(),
        seed()
    )
    .unwrap();
}

macro_rules! matrices {
    ($($name:ident, $long:ident: $scene:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            matrix($scene, Size::Usual).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "thousands of cases: minutes; `make test-full` runs them"]
        async fn $long() {
            matrix($scene, Size::All).await;
        }
    )*};
}

matrices! {
    crashes_change_nothing_in_round_robin, thousands_of_crashes_change_nothing_in_round_robin:
        Scene::Talk(Mode::RoundRobin);
    crashes_change_nothing_when_agents_mention_each_other, thousands_of_crashes_change_nothing_in_mentions:
        Scene::Talk(Mode::Mention);
    crashes_change_nothing_when_an_agent_leads, thousands_of_crashes_change_nothing_when_an_agent_leads:
        Scene::Talk(Mode::Moderator);
    crashes_change_nothing_in_parallel, thousands_of_crashes_change_nothing_in_parallel:
        Scene::Talk(Mode::Parallel);
    crashes_change_nothing_while_a_person_is_asked, thousands_of_crashes_change_nothing_while_a_person_is_asked:
        Scene::Approval;
    crashes_lose_no_message_that_waits, thousands_of_crashes_lose_no_message_that_waits:
        Scene::Queue;
    crashes_do_not_undo_a_cancel, thousands_of_crashes_do_not_undo_a_cancel:
        Scene::Cancel;
    crashes_do_not_undo_a_cancel_of_lanes, thousands_of_crashes_do_not_undo_a_cancel_of_lanes:
        Scene::CancelLanes;
}

/// Scenes that share most of their points with those above: a look at each in the usual run.
const OTHERS: [Scene; 7] = [
    Scene::Silence,
    Scene::Steer,
    Scene::Interrupt,
    Scene::Compaction,
    Scene::LostVm,
    Scene::Segments,
    Scene::Fork,
];

#[tokio::test(flavor = "multi_thread")]
async fn crashes_change_nothing_when_something_rarer_happens() {
    for scene in OTHERS {
        matrix(scene, Size::Few).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "thousands of cases: minutes; `make test-full` runs them"]
async fn thousands_of_crashes_change_nothing_when_something_rarer_happens() {
    for scene in OTHERS {
        matrix(scene, Size::All).await;
    }
}

/// The interpreter's own store: the process dies at every `stride`-th of its writes, before and after it reached the disk.
async fn interpreter(scene: Scene, stride: u64) {
    let (calm, _) = play(scene, Vec::new()).await;
    let mut write = 1;
    loop {
        let mut reached = false;
        for after_commit in [false, true] {
            let rig = start(scene).await;
            rig.restart_with(CrashPoint { write, after_commit }).await;
            let before = *rig.generation.borrow();
            let case =
                format!("{scene:?}, write {write} of the interpreter, after its commit: {after_commit}");
            let played = tokio::time::timeout(HANGS, play_on(&rig, scene, &case)).await;
            assert_eq!(played.unwrap_or_else(|_| panic!("{case} hangs")), calm, "{case}");
            reached |= *rig.generation.borrow() > before || rig.died_at_start.load(Ordering::SeqCst);
            rig.close().await;
        }
        if !reached {
            break;
        }
        write += stride;
    }
    assert!(write > 20, "{scene:?} has more than {write} writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interpreter_that_dies_at_its_writes_goes_on() {
    interpreter(Scene::Talk(Mode::RoundRobin), 11).await;
    interpreter(Scene::Approval, 11).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "hundreds of cases: minutes; `make test-full` runs them"]
async fn an_interpreter_that_dies_at_any_of_its_writes_goes_on() {
    for scene in [Scene::Talk(Mode::RoundRobin), Scene::Talk(Mode::Parallel), Scene::Approval] {
        interpreter(scene, 1).await;
    }
}
