//! A branch: the root of an execution, or one iteration of a Map. It goes from state to state and stores
//! where it stands before it does anything that has an effect.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use super::jitter;
use super::run::Run;
use crate::clock::Work;
use crate::context::{Context, MapItem};
use crate::dataflow;
use crate::definition::{self, Kind, Next, Processor, State};
use crate::document::Document;
use crate::failure::{self, Failure};
use crate::history::{Event, Happening};
use crate::limits;
use crate::store::{Change, Cursor, Phase, Step, Stored};

/// Where a branch begins.
#[derive(Debug)]
pub(super) enum Start {
    /// At its first state.
    Fresh(Document),
    /// Where a former process left it.
    Left(Cursor),
}

/// How a branch ended. What it did since it last stored anything goes into its owner's next step.
#[derive(Debug)]
pub(super) enum End {
    Finished {
        output: Document,
        pending: Pending,
        work: Work,
    },
    Failed {
        failure: Failure,
        pending: Pending,
        work: Work,
    },
    /// The execution's own time is over.
    TimedOut {
        work: Work,
    },
    /// The execution was stopped, or the engine was.
    Gone,
}

/// What happened and is not stored yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) events: Vec<Event>,
    pub(super) transitions: i64,
    pub(super) changes: Vec<Change>,
    /// The branch's latest stored event.
    pub(super) last_event: i64,
}

/// Why a state did not end as it should.
#[derive(Debug)]
pub(super) enum Interrupt {
    Failure(Failure),
    Gone,
}

impl From<Failure> for Interrupt {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// How a state ended.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) output: Document,
    pub(super) next: Next,
}

/// One stay in a state, over all its attempts.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) state: Arc<State>,
    pub(super) input: Document,
    pub(super) entered_at: Timestamp,
    pub(super) retries: Vec<u64>,
}

impl Visit {
    /// A cursor for this stay that says no more than that.
    pub(super) fn cursor(&self, path: &str, phase: Phase) -> Cursor {
        Cursor {
            path: path.to_owned(),
            state: self.state.name.clone(),
            input: Arc::clone(&self.input.text),
            entered_at: self.entered_at,
            phase,
            retries: self.retries.clone(),
            task_token: None,
            wake_at: None,
            deadline: None,
            last_event: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Branch {
    pub(super) run: Arc<Run>,
    processor: Processor,
    pub(super) path: String,
    pub(super) item: Option<MapItem>,
    pub(super) work: Work,
    pub(super) pending: Pending,
    /// States entered since the position was last stored.
    unstored: usize,
}

impl Branch {
    pub(super) fn root(run: Arc<Run>, work: Work) -> Self {
        let processor = run.machine.processor().clone();
        // The execution's own start is event 1.
        let pending = Pending { last_event: 1, ..Pending::default() };
        Self { run, processor, path: String::new(), item: None, work, pending, unstored: 0 }
    }

    /// One iteration of the Map that this branch is in. `pending` may hold the event of its start.
    pub(super) fn iteration(&self, map: &definition::Map, item: MapItem, pending: Pending) -> Self {
        Self {
            run: Arc::clone(&self.run),
            processor: map.processor.clone(),
            path: iteration_path(&self.path, item.index),
            item: Some(item),
            work: self.run.engine.clock.work(),
            pending,
            unstored: 0,
        }
    }

    /// Runs to its end. Boxed, because a Map's iterations are branches again.
    pub(super) fn run(mut self, start: Start) -> BoxFuture<'static, End> {
        async move {
            match self.go(start).await {
                Ok(output) => End::Finished { output, pending: self.pending, work: self.work },
                Err(Interrupt::Failure(failure)) => {
                    End::Failed { failure, pending: self.pending, work: self.work }
                }
                // Whoever stopped it also cancels it. Until then its mark is held: simulated time would otherwise run on to
                // the deadline of an execution that nobody drives any more.
                Err(Interrupt::Gone) => std::future::pending().await,
            }
        }
        .boxed()
    }

    async fn go(&mut self, start: Start) -> Result<Document, Interrupt> {
        let (mut visit, mut left) = match start {
            Start::Fresh(input) => {
                let first = self.processor.start_at.clone();
                (self.enter(&first, input)?, None)
            }
            Start::Left(cursor) => self.resume(cursor)?,
        };
        loop {
            let moved = self.stay(&mut visit, left.take()).await?;
            let type_name = visit.state.kind.name();
            self.happened(Happening::state_exited(type_name, &visit.state.name, &moved.output.text));
            match moved.next {
                Next::End => return Ok(moved.output),
                Next::State(name) => visit = self.enter(&name, moved.output)?,
            }
        }
    }

    fn enter(&mut self, name: &str, input: Document) -> Result<Visit, Failure> {
        let state = self.state(name)?;
        self.happened(Happening::state_entered(state.kind.name(), name, &input.text));
        self.pending.transitions += 1;
        let retries = vec![0; state.retry.len()];
        Ok(Visit { state, input, entered_at: self.run.engine.now(), retries })
    }

    /// Takes up a stay that a former process began.
    fn resume(&mut self, cursor: Cursor) -> Result<(Visit, Option<Cursor>), Failure> {
        let state = self.state(&cursor.state)?;
        let input = Document::parse(&cursor.input)
            .map_err(|error| Failure::runtime(format!("The stored input is unreadable: {error}.")))?;
        let mut retries = cursor.retries.clone();
        retries.resize(state.retry.len(), 0);
        self.pending.last_event = cursor.last_event;
        Ok((Visit { state, input, entered_at: cursor.entered_at, retries }, Some(cursor)))
    }

    fn state(&self, name: &str) -> Result<Arc<State>, Failure> {
        let state = self.processor.state(name);
        state.cloned().ok_or_else(|| Failure::runtime(format!("The definition has no state {name:?}.")))
    }

    /// Stays in a state until it succeeds, is caught, or fails for good.
    async fn stay(&mut self, visit: &mut Visit, left: Option<Cursor>) -> Result<Moved, Interrupt> {
        let mut left = left;
        if let Some(cursor) = left.take_if(|cursor| cursor.phase == Phase::BackingOff) {
            self.sleep_until(cursor.wake_at.unwrap_or(cursor.entered_at)).await;
        }
        loop {
            let failure = match self.attempt(visit, left.take()).await {
                Ok(moved) => return Ok(moved),
                Err(Interrupt::Gone) => return Err(Interrupt::Gone),
                Err(Interrupt::Failure(failure)) => place(failure, &visit.state.name),
            };
            if let Some(delay) = self.next_retry(visit, &failure) {
                self.back_off(visit, delay).await?;
                continue;
            }
            let Some(catcher) =
                visit.state.catch.iter().find(|catcher| failure.matches(&catcher.error_equals))
            else {
                return Err(failure.into());
            };
            let caught = match &catcher.result_path {
                Some(path) => Document::new(
                    dataflow::put(path, &visit.input.value, failure.to_output())?,
                    "output of a Catch",
                )?,
                None => visit.input.clone(),
            };
            return Ok(Moved { output: caught, next: Next::State(catcher.next.clone()) });
        }
    }

    /// The delay before the next attempt, if the first retrier that knows the error has one left.
    fn next_retry(&self, visit: &mut Visit, failure: &Failure) -> Option<Duration> {
        let index = visit.state.retry.iter().position(|retrier| failure.matches(&retrier.error_equals))?;
        let backoff = &visit.state.retry[index].backoff;
        let done = visit.retries[index];
        if done >= backoff.max_attempts {
            return None;
        }
        let place = (self.run.name.as_str(), self.path.as_str(), visit.state.name.as_str());
        let chance = jitter::chance(self.run.engine.jitter_seed, place, visit.entered_at, &visit.retries);
        visit.retries[index] = done + 1;
        Some(backoff.delay(done, chance))
    }

    async fn back_off(&mut self, visit: &Visit, delay: Duration) -> Result<(), Interrupt> {
        let wake_at = later(self.run.engine.now(), delay);
        let mut cursor = visit.cursor(&self.path, Phase::BackingOff);
        cursor.wake_at = Some(wake_at);
        self.pending.changes.push(Change::Put(cursor));
        self.pending.transitions += 1;
        self.store().await?;
        self.sleep_until(wake_at).await;
        Ok(())
    }

    async fn attempt(&mut self, visit: &Visit, left: Option<Cursor>) -> Result<Moved, Interrupt> {
        let state = Arc::clone(&visit.state);
        match &state.kind {
            Kind::Task(task) => self.task(visit, task, left).await,
            Kind::Map(map) => self.map(visit, map, left.is_some()).await,
            Kind::Wait { duration, next } => {
                let output = self.wait(visit, duration, left).await?;
                Ok(Moved { output, next: next.clone() })
            }
            Kind::Pass { .. } | Kind::Choice(_) | Kind::Succeed | Kind::Fail { .. } => {
                self.limit_unstored(visit).await?;
                Ok(self.evaluate(visit)?)
            }
        }
    }

    /// Sleeps without being at work.
    pub(super) async fn sleep_until(&mut self, at: Timestamp) {
        let sleep = self.run.engine.clock.sleep_until(at);
        // Only now that the timer is set: a simulated clock may jump when nobody is at work.
        drop(std::mem::take(&mut self.work));
        self.work = sleep.await;
    }

    /// Keeps a chain of states without effects from going on for ever without being stored.
    async fn limit_unstored(&mut self, visit: &Visit) -> Result<(), Interrupt> {
        self.unstored += 1;
        if self.unstored < limits::MAX_UNSTORED_STATES {
            return Ok(());
        }
        self.pending.changes.push(Change::Put(visit.cursor(&self.path, Phase::Acting)));
        self.store().await
    }

    /// Notes an event for the next step.
    pub(super) fn happened(&mut self, happening: Happening) {
        let previous = self.pending.events.is_empty().then_some(self.pending.last_event);
        self.pending.events.push(happening.into_event(previous, self.run.engine.now()));
    }

    /// Stores what is pending.
    pub(super) async fn store(&mut self) -> Result<(), Interrupt> {
        let pending = std::mem::take(&mut self.pending);
        let step = Step {
            execution: self.run.id,
            events: pending.events,
            transitions: pending.transitions,
            changes: pending.changes,
            closing: None,
        };
        self.pending.last_event = pending.last_event;
        self.unstored = 0;
        match self.run.store(step).await {
            Some(Stored::Done { last_event }) => {
                self.pending.last_event = last_event;
                Ok(())
            }
            Some(Stored::Gone) | None => Err(Interrupt::Gone),
            Some(Stored::HistoryFull) => Err(Failure::runtime(format!(
                "The history has reached its limit of {} events.",
                limits::MAX_HISTORY_EVENTS
            ))
            .into()),
        }
    }

    /// The context object, or null where no path looks at it.
    pub(super) fn context(&self, visit: &Visit, task_token: Option<&str>) -> Value {
        if !visit.state.uses_context {
            return Value::Null;
        }
        self.context_of_item(visit, task_token, self.item.as_ref())
    }

    pub(super) fn context_of_item(
        &self,
        visit: &Visit,
        task_token: Option<&str>,
        map_item: Option<&MapItem>,
    ) -> Value {
        let (execution, state_machine) = &self.run.context;
        Context {
            execution,
            state_machine,
            state_name: &visit.state.name,
            entered_at: visit.entered_at,
            retry_count: visit.retries.iter().sum(),
            map_item,
            task_token,
        }
        .to_value()
    }
}

/// Says where an error came from that the engine found; the ones of functions and of Fail states speak for
/// themselves.
fn place(failure: Failure, state: &str) -> Failure {
    let found_here = [
        failure::RUNTIME,
        failure::DATA_LIMIT_EXCEEDED,
        failure::NO_CHOICE_MATCHED,
        failure::RESULT_PATH_MATCH_FAILURE,
    ];
    // An error of a Map's iteration has its place already.
    if !found_here.contains(&failure.error.as_str()) || failure.cause.starts_with("State \"") {
        return failure;
    }
    Failure { cause: format!("State {state:?}: {}", failure.cause), ..failure }
}

pub(super) fn iteration_path(parent: &str, index: usize) -> String {
    format!("{parent}/{index}")
}

/// `at` and `by` later, to the millisecond that is stored.
pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}
