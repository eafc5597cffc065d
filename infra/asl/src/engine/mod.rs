//! The engine: it loads machines, opens the store, goes on with what was running, and answers operations.

mod branch;
mod error;
mod jitter;
mod map;
mod operations;
mod plain;
mod run;
mod task;
mod tokens;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::branch::Start;
pub use self::error::ApiError;
use self::run::{Left, Run};
use self::tokens::Waiting;
pub use self::views::{
    Execution, ExecutionStatus, ExecutionSummary, HistoryEvent, HistoryQuery, ListFilter, Page,
    StartedExecution,
};
use crate::arn::Home;
use crate::clock::{Clock, SystemClock, Work};
use crate::definition::{DefinitionError, Machine};
use crate::document::Document;
use crate::invoker::{DynInvoker, Invoker};
use crate::store::{CrashPoint, Recovered, Store, StoreError};

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store's file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A definition that an execution began with can no longer be read.
    #[error("a running execution's own definition is refused by this version: {0}")]
    Definition(#[from] DefinitionError),
    /// An execution's stored input is damaged.
    #[error("the stored input of execution {0:?} is unreadable")]
    Input(String),
}

/// Told of every execution that ends. The engine repeats it after a restart if the process ended before
/// the future was done, so it must bear being told twice.
pub type EndHook = Arc<dyn Fn(Execution) -> BoxFuture<'static, ()> + Send + Sync>;

/// What an engine is made of. Only the store's path and the invoker have no default.
pub struct EngineBuilder {
    path: PathBuf,
    invoker: Arc<dyn DynInvoker>,
    machines: Vec<Machine>,
    clock: Arc<dyn Clock>,
    home: Home,
    on_end: Option<EndHook>,
    jitter_seed: u64,
    retention: SignedDuration,
    crash_point: Option<CrashPoint>,
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("path", &self.path)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// How long an ended execution is kept: the time for which AWS keeps one, and its name reserved.
const RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);

impl EngineBuilder {
    /// An engine with its store in the file at `path` (made if it is not there), calling functions through
    /// `invoker`.
    pub fn new(path: impl Into<PathBuf>, invoker: impl Invoker) -> Self {
        Self {
            path: path.into(),
            invoker: Arc::new(invoker),
            machines: Vec::new(),
            clock: Arc::new(SystemClock),
            home: Home::default(),
            on_end: None,
            jitter_seed: rand::random(),
            retention: RETENTION,
            crash_point: None,
        }
    }

    /// Adds a machine. A later one of the same name replaces it.
    #[must_use]
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machines.push(machine);
        self
    }

    /// Takes this clock instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Region and account in the ARNs.
    #[must_use]
    pub fn home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }

    /// Calls `hook` with every execution that ended, whatever the status: what an EventBridge rule is on
    /// AWS.
    #[must_use]
    pub fn on_end<F>(mut self, hook: F) -> Self
    where
        F: Fn(Execution) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        self.on_end = Some(Arc::new(hook));
        self
    }

    /// Makes retry delays with jitter repeatable.
    #[must_use]
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = seed;
        self
    }

    /// How long ended executions are kept (90 days if not said). Older ones go when the engine is opened,
    /// and with [`Engine::purge_ended_before`].
    #[must_use]
    pub fn retention(mut self, retention: SignedDuration) -> Self {
        self.retention = retention;
        self
    }

    /// Stops the engine at a chosen write, for tests of recovery: see [`Engine::stopped`].
    #[must_use]
    pub fn crash_point(mut self, crash_point: CrashPoint) -> Self {
        self.crash_point = Some(crash_point);
        self
    }

    /// Opens the store and goes on with every execution that was running.
    ///
    /// # Errors
    /// The store cannot be opened, or what is in it cannot be read.
    pub async fn open(self) -> Result<Engine, OpenError> {
        let store = Arc::new(Store::open(&self.path, self.crash_point)?);
        let opened = self.open_on(Arc::clone(&store)).await;
        if opened.is_err() {
            // So that the file is free when the caller hears of it.
            store.close().await;
        }
        opened
    }

    async fn open_on(self, store: Arc<Store>) -> Result<Engine, OpenError> {
        // Held until everything is going on again, so that simulated time waits for it.
        let work = self.clock.work();
        let now = milliseconds(self.clock.now());
        if let Ok(before) = now.checked_sub(self.retention) {
            store.purge(before).await?;
        }
        let mut machines = BTreeMap::new();
        for machine in self.machines {
            let name = machine.name().to_owned();
            let definition_id =
                store.keep_definition(name.clone(), machine.definition().to_owned(), now).await?;
            machines.insert(name, Loaded { machine: Arc::new(machine), definition_id, since: now });
        }
        let inner = Arc::new(Inner {
            store,
            clock: self.clock,
            invoker: self.invoker,
            machines,
            home: self.home,
            on_end: self.on_end,
            jitter_seed: self.jitter_seed,
            running: Mutex::default(),
            waiting: Waiting::default(),
            stopping: CancellationToken::new(),
            halted: Mutex::default(),
            launched: Notify::new(),
        });
        let engine = Engine { inner };
        if let Err(error) = engine.recover().await {
            engine.inner.stop();
            return Err(error);
        }
        // A store that stops, at a crash point, takes everything with it, as the end of a process would.
        let inner = Arc::clone(&engine.inner);
        tokio::spawn(async move {
            inner.store.stopped().await;
            inner.halt();
        });
        drop(work);
        Ok(engine)
    }
}

/// A running engine. Clones are the same engine; it runs until [`Engine::shutdown`].
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Loaded {
    machine: Arc<Machine>,
    definition_id: i64,
    since: Timestamp,
}

struct Inner {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    invoker: Arc<dyn DynInvoker>,
    machines: BTreeMap<String, Loaded>,
    home: Home,
    on_end: Option<EndHook>,
    jitter_seed: u64,
    running: Mutex<HashMap<i64, Running>>,
    waiting: Waiting,
    /// Cancelled when the engine stops.
    stopping: CancellationToken,
    /// Held from a crash to the shutdown: nothing of a dead process sees time pass.
    halted: Mutex<Option<Work>>,
    /// Told of every execution that begins to be driven.
    launched: Notify,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("machines", &self.machines.keys()).finish_non_exhaustive()
    }
}

/// An execution that this process runs.
struct Running {
    cancel: CancellationToken,
    /// Dropped at its end, which is what whoever waits for it watches.
    ended: watch::Sender<()>,
}

impl Engine {
    /// Goes on with what was running and tells of what ended untold.
    async fn recover(&self) -> Result<(), OpenError> {
        let inner = &self.inner;
        let mut old_machines: HashMap<i64, Arc<Machine>> = HashMap::new();
        let left = inner.store.recover().await?;
        if !left.is_empty() {
            tracing::info!(executions = left.len(), "going on with executions that were running");
        }
        for recovered in left {
            let row = &recovered.row;
            let current = inner.machines.get(&row.machine).filter(|m| m.definition_id == row.definition_id);
            let machine = match (current, old_machines.get(&row.definition_id)) {
                (Some(loaded), _) => Arc::clone(&loaded.machine),
                (None, Some(machine)) => Arc::clone(machine),
                (None, None) => {
                    let (name, body) = inner.store.definition(row.definition_id).await?;
                    let machine = Arc::new(Machine::load(&name, &body, &BTreeMap::new())?);
                    old_machines.insert(row.definition_id, Arc::clone(&machine));
                    machine
                }
            };
            inner.resume(machine, recovered)?;
        }
        if inner.on_end.is_some() {
            for row in inner.store.unannounced().await? {
                let execution = inner.describe(row);
                inner.announce(execution);
            }
        }
        Ok(())
    }

    /// Ends when the engine has stopped: after [`Engine::shutdown`], or at a crash point.
    pub async fn stopped(&self) {
        self.inner.store.stopped().await;
        self.inner.stopping.cancelled().await;
    }

    /// Stops everything where it is and closes the store. What was running goes on when the store is opened
    /// again; a function in the middle of its work is called again then.
    pub async fn shutdown(&self) {
        let halted = {
            let mut halted = self.inner.lock_halted();
            self.inner.stop();
            halted.take()
        };
        self.inner.store.close().await;
        drop(halted);
    }

    /// The machine of that name.
    pub fn machine(&self, name: &str) -> Option<Arc<Machine>> {
        self.inner.machines.get(name).map(|loaded| Arc::clone(&loaded.machine))
    }

    /// Region and account in the ARNs.
    pub fn home(&self) -> &Home {
        &self.inner.home
    }

    /// How many executions this process runs.
    pub fn running(&self) -> usize {
        self.inner.lock_running().len()
    }
}

impl Inner {
    /// The time, to the millisecond that the store keeps.
    fn now(&self) -> Timestamp {
        milliseconds(self.clock.now())
    }

    fn lock_running(&self) -> MutexGuard<'_, HashMap<i64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_halted(&self) -> MutexGuard<'_, Option<Work>> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has stopped by itself.
    fn halt(&self) {
        let mut halted = self.lock_halted();
        if !self.stopping.is_cancelled() {
            *halted = Some(self.clock.work());
        }
        self.stop();
    }

    fn stop(&self) {
        self.stopping.cancel();
        // Whoever waits for an execution of this process need not wait any longer.
        self.lock_running().clear();
    }

    fn resume(self: &Arc<Self>, machine: Arc<Machine>, recovered: Recovered) -> Result<(), OpenError> {
        let Recovered { row, mut cursors, iterations } = recovered;
        let input = Document::parse(&row.input).map_err(|_| OpenError::Input(row.name.clone()))?;
        let root = cursors.remove("");
        let run = Run::new(Arc::clone(self), machine, &row, &input, Left { cursors, iterations });
        let start = root.map_or(Start::Fresh(input), Start::Left);
        self.launch(run, start, self.clock.work());
        Ok(())
    }

    /// Lets an execution run.
    fn launch(self: &Arc<Self>, run: Run, start: Start, work: Work) {
        let cancel = self.stopping.child_token();
        let running = Running { cancel: cancel.clone(), ended: watch::Sender::new(()) };
        self.lock_running().insert(run.id, running);
        self.launched.notify_waiters();
        let run = Arc::new(run);
        tokio::spawn(run.drive(start, work, cancel));
    }

    /// Notes that an execution has ended, after that was stored, and tells whoever is to be told.
    async fn ended(self: &Arc<Self>, id: i64, machine: &str, name: &str) {
        if self.on_end.is_some()
            && let Ok(Some(row)) = self.store.execution(machine.to_owned(), name.to_owned()).await
        {
            self.announce(self.describe(row));
        }
        // Last, so that whoever waits for the end knows the hook to have begun.
        self.lock_running().remove(&id);
    }

    fn announce(self: &Arc<Self>, execution: Execution) {
        let Some(hook) = self.on_end.clone() else { return };
        let work = self.clock.work();
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let id = execution.id;
            tokio::select! {
                () = inner.stopping.cancelled() => return,
                () = hook(execution) => {}
            }
            if let Err(error) = inner.store.mark_announced(id).await {
                // Then it is told again after the next start, which its listener has to bear.
                tracing::warn!(%error, "an ended execution could not be marked as told");
            }
            drop(work);
        });
    }
}

fn milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}
