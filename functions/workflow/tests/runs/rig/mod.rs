//! The rig: one project with a VM, the shipped state machine, and everything scripted around it.

pub(crate) mod crash;
pub(crate) mod gate;
pub(crate) mod models;
mod store;
mod tools;
mod vm;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use pvm_application::conversations::{Asked, RunPorts};
use pvm_application::error::{AppResult, ErrorCode};
use pvm_application::idempotency::Claim;
use pvm_application::ports::NewId as _;
use pvm_application::ports_model::{ModelError, ModelRequest};
use pvm_application::store::{Listing, ReadStore, Tx, WriteStore};
use pvm_application::{conversations, keys, runs};
use pvm_asl::{
    Clock as _, CrashPoint, Engine, EngineBuilder, HistoryQuery, InvokeError, Invoker, ListFilter, OpenError,
    SimClock, StoreError,
};
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, DynamoSettings, FileSecrets, Tables};
use pvm_contracts::conversations::{
    CreateConversation, DecideApproval, Decision, MessageAccepted, SendMessage,
};
use pvm_contracts::steps::RunInput;
use pvm_domain::conversation::{
    Author, Conversation, ConversationStatus, Delivery, Message, MessageEnd, Mode, Run, ToolCall,
};
use pvm_domain::event::{Event, EventType, LogId};
use pvm_domain::fair_use::Counted;
use pvm_domain::file::{ProjectFile, SyncStatus, WorkspacePath};
use pvm_domain::ids::{ConversationId, OwnerId, PrefixedId, ProjectId, RunId};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_domain::vm::VmLease;
use pvm_embedded::dynamo::EmbeddedDynamo;
use pvm_entry::settings::Secret;
use pvm_entry::{Settings, Signer, Wiring};
use pvm_workflow::steps;
use serde_json::Value;
use tokio::sync::watch;

use self::crash::Points;
use self::models::{Models, Say};
use self::store::Watch;
pub(crate) use self::store::{Mark, Store};
use self::tools::FakeTools;
use self::vm::Vm;
pub(crate) use self::world::SimAmbient;
use self::world::{Flow, Objects, Saves, vm_lease};

pub(crate) struct Rig {
    pub store: Store,
    pub objects: Objects,
    pub flow: Flow,
    pub settings: Settings,
    pub signer: Signer,
    pub vm: Vm,
    pub secrets: FileSecrets,
    pub models: Models,
    pub tools: FakeTools,
    pub saves: Saves,
    pub ambient: SimAmbient,
    pub clock: SimClock,
    pub points: Arc<Points>,
    pub principal: Principal,
    pub project_id: ProjectId,
    home: tempfile::TempDir,
    /// The write of the interpreter's own store at which it stops, once.
    engine_crash: Mutex<Option<CrashPoint>>,
    /// Whether it stopped there while it was being opened.
    pub died_at_start: AtomicBool,
    /// Steps that fail without doing anything: how often still, and by which error.
    pub failing: Mutex<BTreeMap<String, (u32, String)>>,
    /// Nobody hears of an execution's end.
    pub deaf: AtomicBool,
    /// The steps that were called.
    pub called: Mutex<BTreeSet<String>>,
    /// How often the process was started again.
    pub generation: watch::Sender<u32>,
}

impl Wiring for Rig {
    type Store = Store;
    type Objects = Objects;
    type Workflow = Flow;
    type Vm = Vm;
    type Secrets = FileSecrets;
    type Models = Models;
    type Tools = FakeTools;
    type Saver = Saves;
    type Ambient = SimAmbient;

    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn signer(&self) -> &Signer {
        &self.signer
    }
    fn store(&self) -> &Store {
        &self.store
    }
    fn objects(&self) -> &Objects {
        &self.objects
    }
    fn workflow(&self) -> &Flow {
        &self.flow
    }
    fn vm(&self) -> &Vm {
        &self.vm
    }
    fn secrets(&self) -> &FileSecrets {
        &self.secrets
    }
    fn models(&self) -> &Models {
        &self.models
    }
    fn tools(&self) -> &FakeTools {
        &self.tools
    }
    fn saver(&self) -> &Saves {
        &self.saves
    }
    fn ambient(&self) -> &SimAmbient {
        &self.ambient
    }
}

/// Calls steps. The rig is held weakly: it owns the engine that owns this.
struct Steps {
    rig: Weak<Rig>,
}

impl Invoker for Steps {
    async fn invoke(&self, name: &str, payload: Value) -> Result<Value, InvokeError> {
        let Some(rig) = self.rig.upgrade() else { return std::future::pending().await };
        rig.called.lock().unwrap().insert(name.to_owned());
        if let Some(error) = rig.fails_now(name) {
            return Err(InvokeError::new(error, "it fails for the test"));
        }
        let points = Arc::clone(&rig.points);
        let step = steps::find::<Rig>(name).unwrap_or_else(|| panic!("there is no step {name}"));
        match points.mortal((step.call)(rig, payload)).await {
            Some(answer) => answer.map_err(|error| InvokeError::new(error.name.as_str(), error.message)),
            None => Err(InvokeError::new("Lambda.Unknown", "the function died")),
        }
    }
}

/// Memory where there is some: a store of its own for each of thousands of cases need not reach a disk.
fn home() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// `run-tool` stands for `${RunToolFunction}`.
fn substitution(step: &str) -> String {
    let words = step.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
    words.collect::<String>() + "Function"
}

async fn dynamo(clock: &SimClock) -> Dynamo {
    let embedded = EmbeddedDynamo::in_memory().unwrap();
    let credentials = StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() };
    let base = clients::load(ClientSettings {
        region: Some("us-east-1".to_owned()),
        credentials: Some(credentials),
        dynamodb_http: Some(embedded.http_client()),
        ..ClientSettings::default()
    })
    .await;
    let tables = Tables { app: "app".to_owned(), events: "events".to_owned() };
    pvm_aws::schema::create_missing(&base.dynamodb(), &tables).await.unwrap();
    let now = clock.clone();
    let settings = DynamoSettings { poll_interval: None, now: Arc::new(move || now.now()) };
    Dynamo::with_settings(base.dynamodb(), tables, settings)
}

impl Rig {
    /// A rig whose agents say what `script` says.
    pub(crate) async fn new(script: impl Fn(&ModelRequest) -> Say + Send + Sync + 'static) -> Arc<Self> {
        let clock = SimClock::automatic("2026-01-01T00:00:00Z".parse().unwrap());
        let points = Arc::new(Points::default());
        points.use_clock(&clock);
        let home = home();
        let watch = Watch::new(&clock);
        let store = Store { inner: dynamo(&clock).await, points: Arc::clone(&points), watch };
        let vm = Vm::new(Arc::clone(&points), clock.clone());
        let owner = OwnerId::parse("tester").unwrap();
        let rig = Arc::new(Self {
            flow: Flow {
                engine: Arc::new(RwLock::new(None)),
                points: Arc::clone(&points),
                store: store.clone(),
                clock: clock.clone(),
                loses_next_start: Arc::default(),
                fails_second_segments: Arc::default(),
            },
            models: Models {
                points: Arc::clone(&points),
                clock: clock.clone(),
                script: Box::new(script),
                errors: Mutex::default(),
                breaks: Mutex::default(),
                dropped: Arc::default(),
                requests: Mutex::default(),
                window: 100_000,
            },
            tools: FakeTools::new(vm.clone()),
            settings: Settings::from_lookup(|_| None).unwrap(),
            signer: Signer::new(&Secret::new("0123456789abcdef0123456789abcdef".to_owned())).unwrap(),
            objects: Objects::default(),
            saves: Saves::default(),
            ambient: SimAmbient::new(clock.clone()),
            principal: Principal { owner, scope: Scope::Admin, projects: None },
            project_id: ProjectId::from_parts(1, 1),
            store,
            vm,
            secrets: FileSecrets::new(home.path().join("secrets")),
            clock,
            points,
            home,
            engine_crash: Mutex::default(),
            died_at_start: AtomicBool::new(false),
            failing: Mutex::default(),
            deaf: AtomicBool::new(false),
            called: Mutex::default(),
            generation: watch::Sender::new(0),
        });
        rig.make_project().await;
        rig.open_engine().await;
        rig.supervise();
        rig
    }

    /// The error by which a step is to fail now, if it is.
    fn fails_now(&self, step: &str) -> Option<String> {
        let mut failing = self.failing.lock().unwrap();
        let (left, error) = failing.get_mut(step).filter(|(left, _)| *left > 0)?;
        *left -= 1;
        Some(error.clone())
    }

    async fn open_engine(self: &Arc<Self>) {
        let engine = self.engine().await;
        *self.flow.engine.write().unwrap() = Some(engine);
    }

    /// Starts the process again whenever it died.
    fn supervise(self: &Arc<Self>) {
        let (rig, points) = (Arc::downgrade(self), Arc::clone(&self.points));
        tokio::spawn(async move {
            loop {
                let Some(engine) = rig.upgrade().and_then(|rig| rig.flow.engine.read().unwrap().clone())
                else {
                    return;
                };
                tokio::select! {
                    () = points.process_dies() => {}
                    () = engine.stopped() => {}
                }
                let Some(rig) = rig.upgrade().filter(|rig| rig.flow.engine.read().unwrap().is_some()) else {
                    return;
                };
                rig.restart().await;
            }
        });
    }

    /// What a process does that is started again after it died: nothing of it is left but its files.
    async fn restart(self: &Arc<Self>) {
        let work = self.clock.work();
        self.points.end_lingering();
        self.flow.engine().shutdown().await;
        self.open_engine().await;
        self.generation.send_modify(|count| *count += 1);
        drop(work);
    }

    /// Starts again with an interpreter that stops at this write of its own store, counted from here.
    pub(crate) async fn restart_with(self: &Arc<Self>, crash: CrashPoint) {
        *self.engine_crash.lock().unwrap() = Some(crash);
        let mut generation = self.generation.subscribe();
        self.points.kill_process();
        generation.changed().await.unwrap();
    }

    /// Ends the rig: what it holds is freed.
    pub(crate) async fn close(&self) {
        self.points.end_lingering();
        let engine = self.flow.engine.write().unwrap().take();
        if let Some(engine) = engine {
            engine.shutdown().await;
        }
    }

    async fn make_project(&self) {
        let now = self.clock.now();
        let mut project = Project {
            project_id: self.project_id.clone(),
            owner: self.principal.owner.clone(),
            name: "Test".to_owned(),
            description: String::new(),
            auto_setup_vm: false,
            template: None,
            env: BTreeMap::new(),
            vm_idle_secs: None,
            vm_paused_secs: None,
            deleting: false,
            created_at: now,
            updated_at: now,
            version: 0,
        };
        let mut lease = vm_lease(&self.project_id, 1, now);
        self.store.inner.commit(Tx::new().create(&mut project).create(&mut lease)).await.unwrap();
    }

    /// A saved file of the workspace, of so many bytes.
    pub(crate) async fn make_file(&self, path: &str, size: u64) {
        let now = self.clock.now();
        let mut file = ProjectFile {
            project_id: self.project_id.clone(),
            file_id: self.ambient.new_id(),
            path: WorkspacePath::parse("path", path).unwrap(),
            size,
            sha256: None,
            mode: 0o644,
            object_version: 1,
            restored_from: None,
            uploads: Vec::new(),
            sync_status: SyncStatus::Synced,
            sync_error: None,
            vm_copy: None,
            created_at: now,
            updated_at: now,
            owner: None,
            counted: Counted::default(),
            version: 0,
        };
        self.store.inner.commit(Tx::new().create(&mut file)).await.unwrap();
    }

    /// The interpreter, opened again where it stops while it is opened: a process that dies at its start is started again.
    async fn engine(self: &Arc<Self>) -> Engine {
        loop {
            let crash = self.engine_crash.lock().unwrap().take();
            match self.builder(crash).open().await {
                Ok(engine) => return engine,
                Err(OpenError::Store(StoreError::Stopped)) if crash.is_some() => {
                    self.died_at_start.store(true, Ordering::SeqCst);
                }
                Err(error) => panic!("the interpreter cannot be opened: {error}"),
            }
        }
    }

    fn builder(self: &Arc<Self>, crash: Option<CrashPoint>) -> EngineBuilder {
        let file = self.home.path().join("workflow.sqlite");
        let names: BTreeMap<String, String> =
            steps::STEPS.iter().map(|step| (substitution(step.name), step.name.to_owned())).collect();
        let text = include_str!("../../../../../statemachines/run-turn.asl.json");
        let machine = pvm_asl::Machine::load("run-turn", text, &names).unwrap();
        let on_end = Arc::downgrade(self);
        let builder = EngineBuilder::new(file, Steps { rig: Arc::downgrade(self) });
        let builder = match crash {
            Some(crash) => builder.crash_point(crash),
            None => builder,
        };
        builder.clock(self.clock.clone()).jitter_seed(7).machine(machine).on_end(move |execution| {
            let rig = on_end.upgrade();
            Box::pin(async move {
                let Some(rig) = rig.filter(|_| execution.status.as_str() != "SUCCEEDED") else { return };
                if rig.deaf.load(Ordering::SeqCst) {
                    return;
                }
                let input: RunInput = serde_json::from_str(&execution.input).unwrap();
                let status = execution.status.as_str();
                let told = runs::execution_ended(&rig.store, &rig.flow, &rig.ambient, &input, status).await;
                // The process may be ending, as in a real one; the next tells it again.
                assert!(told.as_ref().err().is_none_or(|it| it.code == ErrorCode::Unavailable), "{told:?}");
            })
        })
    }

    /// Begins a conversation of these agents.
    pub(crate) async fn create(&self, agents: &[&str], mode: Mode, message: &str) -> MessageAccepted {
        self.create_with(CreateConversation {
            agent_ids: agents.iter().map(|agent| (*agent).to_owned()).collect(),
            initial_message: message.to_owned(),
            conversation_id: None,
            mode,
            max_turns: None,
            budget: pvm_domain::conversation::Budget::default(),
            file_ids: Vec::new(),
        })
        .await
    }

    pub(crate) async fn create_with(&self, input: CreateConversation) -> MessageAccepted {
        conversations::create(self.run_ports(), self.asked(None), input).await.unwrap()
    }

    /// What requests that begin runs get.
    pub(crate) fn run_ports(&self) -> RunPorts<'_, Store, Objects, Flow, Models, SimAmbient> {
        RunPorts {
            store: &self.store,
            objects: &self.objects,
            workflow: &self.flow,
            models: &self.models,
            ambient: &self.ambient,
            check_tools: |_| Ok(()),
        }
    }

    /// The tester, in the project.
    pub(crate) fn asked<'a>(&'a self, claim: Option<&'a Claim>) -> Asked<'a> {
        Asked { principal: &self.principal, project_id: &self.project_id, claim }
    }

    pub(crate) async fn send(
        &self,
        id: &ConversationId,
        message: &str,
        delivery: Delivery,
    ) -> MessageAccepted {
        self.try_send(id, message, delivery).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        id: &ConversationId,
        message: &str,
        delivery: Delivery,
    ) -> AppResult<MessageAccepted> {
        let input = SendMessage { message: message.to_owned(), delivery };
        conversations::send(self.run_ports(), &self.vm, self.asked(None), id.as_str(), input).await
    }

    pub(crate) async fn cancel(&self, id: &ConversationId) -> Conversation {
        let cancelled = conversations::cancel(
            &self.store,
            &self.flow,
            &self.vm,
            &self.ambient,
            &self.principal,
            &self.project_id,
            id.as_str(),
        );
        cancelled.await.unwrap()
    }

    /// Defines `careful`, who asks before a deployment.
    pub(crate) async fn define_careful(&self) {
        let approvals = serde_json::json!({"change(deploy*)": "ask"});
        self.define(serde_json::json!({"agent_id": "careful", "approvals": approvals})).await;
    }

    /// Defines an agent of the tester's own.
    pub(crate) async fn define(&self, definition: Value) {
        let definition = serde_json::from_value(definition).unwrap();
        let (models, clock) = (&self.models, &self.ambient);
        pvm_application::agents::create(&self.store, models, clock, &self.principal, definition, None)
            .await
            .unwrap();
    }

    /// Waits until the conversation's log has an event of this kind; answers the newest.
    pub(crate) async fn wait_for(&self, id: &ConversationId, kind: EventType) -> Event {
        let log = LogId::Conversation(id.clone());
        for _ in 0..100 {
            let seen = self.store.log_head(&log).await.unwrap();
            let events = self.store.events(&log, 0, 1000).await.unwrap();
            if let Some(event) = events.into_iter().rev().find(|event| event.kind == kind) {
                return event;
            }
            self.store.wait_for_append(&log, seen, std::time::Duration::from_secs(1)).await;
        }
        panic!("{kind:?} never came");
    }

    /// Waits until the run of the conversation waits for a person.
    pub(crate) async fn wait_until_waiting(&self, id: &ConversationId) {
        for _ in 0..2000 {
            if self.conversation(id).await.status == ConversationStatus::Waiting {
                return;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        panic!("nobody is waited for");
    }

    /// Approves whatever waits.
    pub(crate) async fn decide_all(&self, id: &ConversationId) {
        for approval in self.open_approvals(id).await {
            self.decide(id, &approval, Decision::Approve).await;
        }
    }

    /// What waits for a decision, in the order in which it was asked for.
    pub(crate) async fn open_approvals(&self, id: &ConversationId) -> Vec<String> {
        let (principal, project) = (&self.principal, &self.project_id);
        let found = conversations::get(&self.store, principal, project, id.as_str()).await.unwrap();
        found.approvals.into_iter().map(|approval| approval.approval_id.to_string()).collect()
    }

    /// Decides on one call.
    pub(crate) async fn decide(&self, id: &ConversationId, approval: &str, decision: Decision) {
        let input = DecideApproval { decision, request_hash: None, comment: None };
        let (store, flow, ambient) = (&self.store, &self.flow, &self.ambient);
        let (principal, project) = (&self.principal, &self.project_id);
        conversations::decide(store, flow, ambient, principal, project, id.as_str(), approval, input)
            .await
            .unwrap();
    }

    /// The model's next calls fail so.
    pub(crate) fn errors(&self, errors: impl IntoIterator<Item = ModelError>) {
        self.models.errors.lock().unwrap().extend(errors);
    }

    /// Waits until no execution runs that could go on by itself, and looks after lost starts as the clean-up does.
    pub(crate) async fn settle(&self) {
        let mut generation = self.generation.subscribe();
        for _ in 0..400 {
            let engine = self.flow.engine();
            tokio::select! {
                biased;
                _ = generation.changed() => {}
                over = self.settle_some(&engine) => if over && !self.points.no_more_lingering().await { return },
            }
        }
        panic!("executions go on for ever");
    }

    /// What stands where, for a test that hangs: executions with the last of their history.
    pub(crate) async fn standing(&self) -> String {
        let engine = self.flow.engine();
        let arn = engine.home().machine_arn("run-turn");
        let Ok(list) = engine.list_executions(&arn, ListFilter::default()).await else {
            return "the engine has stopped".to_owned();
        };
        let mut told = String::new();
        for execution in list.items {
            let query = HistoryQuery { newest_first: true, limit: Some(3), ..HistoryQuery::default() };
            let last = engine.execution_history(&execution.arn, query).await;
            told.push_str(&format!("{execution:?}\n  {last:?}\n"));
        }
        told
    }

    /// Waits for one execution; answers whether nothing is left to do. Never answers where the engine has stopped.
    async fn settle_some(&self, engine: &Engine) -> bool {
        let arn = engine.home().machine_arn("run-turn");
        let running = ListFilter { status: Some(pvm_asl::ExecutionStatus::Running), ..ListFilter::default() };
        let Ok(list) = engine.list_executions(&arn, running).await else {
            return std::future::pending().await;
        };
        let Some(execution) = list.items.first() else { return self.sweep().await == 0 };
        if engine.wait_for_end(&execution.arn).await.is_err() {
            return std::future::pending().await;
        }
        false
    }

    /// State transitions of every execution of a run, as the interpreter counted them.
    pub(crate) async fn transitions(&self, run: &Run) -> u32 {
        let engine = self.flow.engine();
        let mut count = 0;
        for segment in 1..=run.segment {
            let name = format!("{}-{segment}", run.run_id);
            let arn = engine.home().execution_arn("run-turn", &name);
            let execution = engine.describe_execution(&arn).await.unwrap();
            count += u32::try_from(execution.transitions).unwrap();
        }
        count
    }

    /// What the clean-up does for runs, half an hour later.
    pub(crate) async fn sweep(&self) -> u32 {
        self.clock.advance(std::time::Duration::from_mins(30));
        runs::sweep(&self.store, &self.flow, &self.vm, &self.ambient).await.unwrap()
    }

    pub(crate) async fn conversation(&self, id: &ConversationId) -> Conversation {
        self.store.get(&keys::conversation(id)).await.unwrap().unwrap()
    }

    pub(crate) async fn run(&self, id: &ConversationId, run: &RunId) -> Run {
        self.store.get(&keys::run(id, run)).await.unwrap().unwrap()
    }

    pub(crate) async fn lease(&self) -> VmLease {
        self.store.get(&keys::vm_lease(&self.project_id)).await.unwrap().unwrap()
    }

    async fn all<R: pvm_application::store::Record>(&self, id: &ConversationId, prefix: &str) -> Vec<R> {
        self.store.list(Listing::of(keys::conversation_partition(id), prefix)).await.unwrap().items
    }

    pub(crate) async fn messages(&self, id: &ConversationId) -> Vec<Message> {
        self.all(id, "M#").await
    }

    pub(crate) async fn calls(&self, id: &ConversationId) -> Vec<ToolCall> {
        self.all(id, "T#").await
    }

    /// The transcript, one line a message: who, what, how it ended.
    pub(crate) async fn transcript(&self, id: &ConversationId) -> Vec<String> {
        let line = |message: Message| {
            let who = match message.author {
                Author::User => "user".to_owned(),
                Author::System => "system".to_owned(),
                Author::Agent { agent_id } => agent_id,
            };
            let end = if message.end == MessageEnd::Complete {
                String::new()
            } else {
                format!(" ({:?})", message.end)
            };
            format!("{who}: {}{end}", message.text)
        };
        self.messages(id).await.into_iter().map(line).collect()
    }

    /// How many events there are, whatever is under way.
    pub(crate) async fn events_open(&self, id: &ConversationId) -> u64 {
        self.store.log_head(&LogId::Conversation(id.clone())).await.unwrap()
    }

    /// Every event, checked to be without gaps and with the run's end as its last.
    pub(crate) async fn events(&self, id: &ConversationId) -> Vec<Event> {
        let log = LogId::Conversation(id.clone());
        let mut all: Vec<Event> = Vec::new();
        loop {
            let after = all.len() as u64;
            let page = self.store.events(&log, after, 100).await.unwrap();
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        for (at, event) in all.iter().enumerate() {
            assert_eq!(event.seq, Some(at as u64 + 1));
        }
        check_story(&all);
        all
    }
}

/// What must hold of any log: messages are begun and completed once, resets come between, runs end once and nothing of
/// them comes after.
fn check_story(events: &[Event]) {
    let mut open: VecDeque<String> = VecDeque::new();
    let mut ended: Vec<String> = Vec::new();
    let mut calls: BTreeMap<String, u32> = BTreeMap::new();
    for event in events {
        let text = |field: &str| event.data[field].as_str().unwrap_or_default().to_owned();
        let of_agent = event.data["author"] == "agent";
        assert!(!ended.contains(&text("run_id")), "after the end of its run: {event:?}");
        match event.kind {
            EventType::MessageCreated if of_agent => open.push_back(text("message_id")),
            EventType::MessageReset => assert!(open.contains(&text("message_id")), "{event:?}"),
            EventType::MessageCompleted if of_agent => {
                let before = open.len();
                open.retain(|id| *id != text("message_id"));
                assert_eq!(open.len() + 1, before, "completed twice or never begun: {event:?}");
            }
            EventType::ToolFinished => {
                let count = calls.entry(text("tool_call_id")).or_default();
                *count += 1;
                assert_eq!(*count, 1, "finished twice: {event:?}");
            }
            EventType::RunFinished => ended.push(text("run_id")),
            _ => {}
        }
    }
    assert!(open.is_empty() || ended.is_empty(), "messages left open: {open:?}");
}

/// Kinds of events, for comparing stories.
pub(crate) fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

impl Rig {
    /// How often a save was asked for.
    pub(crate) fn saves(&self) -> u64 {
        self.saves.0.load(Ordering::SeqCst)
    }
}
