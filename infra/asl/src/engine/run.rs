//! One execution from its start, or from where it was left, to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::branch::{Branch, End, Pending, Start};
use crate::clock::Work;
use crate::context::format_time;
use crate::definition::Machine;
use crate::document::Document;
use crate::failure::Failure;
use crate::history::Happening;
use crate::store::{Closing, Cursor, ExecutionRow, Step, StoreError, Stored};

/// What all branches of an execution share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) engine: Arc<Inner>,
    pub(super) id: i64,
    pub(super) machine: Arc<Machine>,
    pub(super) name: String,
    pub(super) deadline: Option<Timestamp>,
    /// `$$.Execution` and `$$.StateMachine`.
    pub(super) context: (Value, Value),
    /// Where branches stood when the process ended, by path; each is taken once.
    left: Mutex<Left>,
}

/// What a former process left of an execution.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) cursors: HashMap<String, Cursor>,
    pub(super) iterations: HashMap<String, String>,
}

impl Run {
    pub(super) fn new(
        engine: Arc<Inner>,
        machine: Arc<Machine>,
        row: &ExecutionRow,
        input: &Document,
        left: Left,
    ) -> Self {
        let home = &engine.home;
        let execution = json!({
            "Id": home.execution_arn(&row.machine, &row.name),
            "Input": *input.value,
            "Name": row.name,
            "RoleArn": home.role_arn(),
            "StartTime": format_time(row.started_at),
        });
        let state_machine = json!({ "Id": home.machine_arn(&row.machine), "Name": row.machine });
        Self {
            id: row.id,
            machine,
            name: row.name.clone(),
            deadline: row.deadline,
            context: (execution, state_machine),
            left: Mutex::new(left),
            engine,
        }
    }

    pub(super) fn take_cursor(&self, path: &str) -> Option<Cursor> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).cursors.remove(path)
    }

    pub(super) fn take_iteration(&self, path: &str) -> Option<String> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).iterations.remove(path)
    }

    /// Forgets what was left below `path`: what is there begins anew.
    pub(super) fn forget_left(&self, path: &str) {
        let below = format!("{path}/");
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.cursors.retain(|path, _| !path.starts_with(&below));
        left.iterations.retain(|path, _| !path.starts_with(&below));
    }

    /// Stores a step. None if the engine has stopped.
    pub(super) async fn store(&self, step: Step) -> Option<Stored> {
        let step = Arc::new(step);
        self.persist(|| self.engine.store.step(Arc::clone(&step))).await
    }

    /// The answer that was kept for a token. None if the engine has stopped.
    pub(super) async fn kept_answer(&self, token: &str) -> Option<Option<String>> {
        self.persist(|| self.engine.store.kept_answer(token.to_owned())).await
    }

    /// Takes a token back, unless it has its answer, which is returned. None if the engine has stopped.
    pub(super) async fn revoke_token(&self, token: &str) -> Option<Option<String>> {
        self.persist(|| self.engine.store.revoke_token(token.to_owned())).await
    }

    /// Uses the store, waiting as long as it has trouble: a machine that cannot remember where it is must not
    /// go on, and must not be forgotten either. None if the engine has stopped.
    async fn persist<T, A>(&self, attempt: impl Fn() -> A) -> Option<T>
    where
        A: Future<Output = Result<T, StoreError>>,
    {
        const PAUSE: Duration = Duration::from_secs(1);
        loop {
            match attempt().await {
                Ok(answer) => return Some(answer),
                Err(StoreError::Stopped) => return None,
                Err(error) => {
                    tracing::error!(execution.name = self.name, %error, "a workflow waits for its store");
                    // Real time: this is about the disk, not about the machine's own waits.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Runs to the end. Nothing is stored about a run that is cancelled: whoever cancels has done so.
    pub(super) async fn drive(self: Arc<Self>, start: Start, work: Work, cancel: CancellationToken) {
        let timeout = self.deadline.map(|deadline| self.engine.clock.sleep_until(deadline));
        let branch = Branch::root(Arc::clone(&self), work);
        let end = tokio::select! {
            biased;
            () = cancel.cancelled() => End::Gone,
            work = wait_for(timeout) => End::TimedOut { work },
            end = branch.run(start) => end,
        };
        self.finish(end).await;
    }

    async fn finish(&self, end: End) {
        let (happening, status, output, failure, pending, work) = match end {
            End::Finished { output, pending, work } => {
                let happening = Happening::execution_succeeded(&output.text);
                (happening, "SUCCEEDED", Some(output.text), None, pending, work)
            }
            End::Failed { failure, pending, work } => {
                let happening = Happening::execution_ended_badly("Failed", Some(&failure));
                (happening, "FAILED", None, Some(failure), pending, work)
            }
            End::TimedOut { work } => {
                let happening = Happening::execution_ended_badly("TimedOut", Some(&Failure::timeout()));
                (happening, "TIMED_OUT", None, None, Pending::default(), work)
            }
            End::Gone => {
                self.engine.lock_running().remove(&self.id);
                return;
            }
        };
        let at = self.engine.now();
        let mut events = pending.events;
        // An execution that is closed from outside its branches has no event to follow but the first.
        let previous = events.is_empty().then_some(pending.last_event);
        events.push(happening.into_event(previous, at));
        let closing = Closing {
            status,
            output,
            error: failure.as_ref().map(|failure| failure.error.clone()).filter(|error| !error.is_empty()),
            cause: failure.map(|failure| failure.cause).filter(|cause| !cause.is_empty()),
            at,
            announced: self.engine.on_end.is_none(),
        };
        let step = Step {
            execution: self.id,
            events,
            transitions: pending.transitions,
            // Closing forgets every branch, so their changes have nothing left to change.
            changes: Vec::new(),
            closing: Some(closing),
        };
        if let Some(Stored::Done { .. }) = self.store(step).await {
            self.engine.ended(self.id, self.machine.name(), &self.name).await;
        }
        drop(work);
    }
}

/// Ends with the timer, or never if there is none.
pub(super) async fn wait_for(timer: Option<futures::future::BoxFuture<'static, Work>>) -> Work {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}
