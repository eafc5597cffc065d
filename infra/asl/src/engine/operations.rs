//! The operations of the Step Functions API that this system uses.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::branch::Start;
use super::run::{Left, Run};
use super::tokens::{self, Answer};
use super::views::{
    Execution, ExecutionStatus, ExecutionSummary, HistoryEvent, HistoryQuery, ListFilter, Page,
    StartedExecution,
};
use super::{ApiError, Engine, Inner, Loaded};
use crate::arn::{Parsed, is_valid_name};
use crate::clock::Work;
use crate::document::Document;
use crate::failure::{self, Failure};
use crate::history::Happening;
use crate::limits;
use crate::store::{
    Closing, ExecutionRow, HistoryPage, ListQuery, NewExecution, Started, Step, StoreError, Stored,
    TokenState,
};

impl Engine {
    /// Starts an execution. The same name and input while it runs is the same execution; without a name it
    /// gets a random one.
    ///
    /// # Errors
    /// InvalidArn, StateMachineDoesNotExist, InvalidName, InvalidExecutionInput, ExecutionAlreadyExists, or
    /// a validation error for an input over 256 KiB.
    pub async fn start_execution(
        &self,
        machine_arn: &str,
        name: Option<&str>,
        input: &str,
    ) -> Result<StartedExecution, ApiError> {
        let inner = &self.inner;
        inner.loaded(machine_arn)?;
        let name = match name {
            Some(name) if is_valid_name(name) => name.to_owned(),
            Some(name) => return Err(ApiError::InvalidName(name.to_owned())),
            None => format!("{:032x}", rand::random::<u128>()),
        };
        if input.len() > limits::MAX_PAYLOAD_BYTES {
            return Err(ApiError::too_long("the input", input.len()));
        }
        let input =
            Document::parse(input).map_err(|error| ApiError::InvalidExecutionInput(error.to_string()))?;
        let (inner, machine_arn, work) = (Arc::clone(inner), machine_arn.to_owned(), self.inner.clock.work());
        to_its_end(async move {
            let loaded = inner.loaded(&machine_arn)?;
            inner.start(loaded, name, input, work).await
        })
        .await
    }

    /// Stops an execution at once. Stopping one that has ended changes nothing. Returns when it ended.
    ///
    /// # Errors
    /// InvalidArn, ExecutionDoesNotExist.
    pub async fn stop_execution(
        &self,
        execution_arn: &str,
        error: Option<String>,
        cause: Option<String>,
    ) -> Result<Timestamp, ApiError> {
        let row = self.inner.find(execution_arn).await?;
        if let Some(stopped_at) = row.stopped_at {
            return Ok(stopped_at);
        }
        let (inner, work) = (Arc::clone(&self.inner), self.inner.clock.work());
        let aborted = to_its_end(async move {
            let aborted = inner.abort(&row, error, cause).await;
            drop(work);
            aborted
        });
        if let Some(at) = aborted.await? {
            return Ok(at);
        }
        // It ended by itself in the meantime.
        let row = self.inner.find(execution_arn).await?;
        Ok(row.stopped_at.unwrap_or(row.started_at))
    }

    /// The execution as it stands.
    ///
    /// # Errors
    /// InvalidArn, ExecutionDoesNotExist.
    pub async fn describe_execution(&self, execution_arn: &str) -> Result<Execution, ApiError> {
        let row = self.inner.find(execution_arn).await?;
        Ok(self.inner.describe(row))
    }

    /// Waits until the execution has ended.
    ///
    /// # Errors
    /// As [`Engine::describe_execution`]; and that the engine has stopped, while the execution has not ended.
    pub async fn wait_for_end(&self, execution_arn: &str) -> Result<Execution, ApiError> {
        loop {
            let launched = self.inner.launched.notified();
            tokio::pin!(launched);
            launched.as_mut().enable();
            let row = self.inner.find(execution_arn).await?;
            let ended = self.inner.lock_running().get(&row.id).map(|running| running.ended.subscribe());
            if let Some(mut ended) = ended {
                // It never changes; it ends when the execution does.
                while ended.changed().await.is_ok() {}
            }
            let execution = self.describe_execution(execution_arn).await?;
            if execution.status != ExecutionStatus::Running {
                return Ok(execution);
            }
            // Stored and not yet launched, or stopped with the engine.
            tokio::select! {
                biased;
                () = self.inner.stopping.cancelled() => return Err(StoreError::Stopped.into()),
                () = launched => {}
            }
        }
    }

    /// Executions of a machine, the newest first.
    ///
    /// # Errors
    /// InvalidArn, StateMachineDoesNotExist, or a validation error for limit or token.
    pub async fn list_executions(
        &self,
        machine_arn: &str,
        filter: ListFilter,
    ) -> Result<Page<ExecutionSummary>, ApiError> {
        let inner = &self.inner;
        let machine = inner.loaded(machine_arn)?.machine.name().to_owned();
        let limit = checked_limit(filter.limit)?;
        let before = filter.next_token.as_deref().map(parse_list_token).transpose()?;
        let query = ListQuery {
            machine: machine.clone(),
            status: filter.status.map(|status| status.as_str().to_owned()),
            before,
            limit: limit + 1,
        };
        let mut rows = inner.store.list(query).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_token = rows
            .last()
            .filter(|_| has_more)
            .map(|row| URL_SAFE_NO_PAD.encode(format!("{}:{}", row.started_at.as_millisecond(), row.id)));
        let items = rows
            .into_iter()
            .map(|row| ExecutionSummary {
                arn: inner.home.execution_arn(&machine, &row.name),
                machine_arn: inner.home.machine_arn(&machine),
                name: row.name,
                status: status_of(&row.status),
                started_at: row.started_at,
                stopped_at: row.stopped_at,
            })
            .collect();
        Ok(Page { items, next_token })
    }

    /// The events of an execution.
    ///
    /// # Errors
    /// InvalidArn, ExecutionDoesNotExist, or a validation error for limit or token.
    pub async fn execution_history(
        &self,
        execution_arn: &str,
        query: HistoryQuery,
    ) -> Result<Page<HistoryEvent>, ApiError> {
        let row = self.inner.find(execution_arn).await?;
        let limit = checked_limit(query.limit)?;
        let after = match &query.next_token {
            None => 0,
            Some(token) => token.parse().map_err(|_| bad_page_token())?,
        };
        let page = HistoryPage { after, newest_first: query.newest_first, limit: limit + 1 };
        let mut events = self.inner.store.history(row.id, page).await?;
        let has_more = events.len() > limit;
        events.truncate(limit);
        let next_token = events.last().filter(|_| has_more).map(|event| event.id.to_string());
        let items = events
            .into_iter()
            .map(|event| HistoryEvent {
                id: event.id,
                previous_id: event.previous_id,
                at: event.at,
                kind: event.kind,
                details: serde_json::from_str(&event.details).unwrap_or_default(),
            })
            .collect();
        Ok(Page { items, next_token })
    }

    /// Ends the task that waits for `token` well, with `output` (JSON) as its result.
    ///
    /// # Errors
    /// InvalidToken, TaskDoesNotExist, TaskTimedOut, InvalidOutput, or a validation error for its size.
    pub async fn send_task_success(&self, token: &str, output: &str) -> Result<(), ApiError> {
        if output.len() > limits::MAX_PAYLOAD_BYTES {
            return Err(ApiError::too_long("the output", output.len()));
        }
        serde_json::from_str::<Value>(output).map_err(|error| ApiError::InvalidOutput(error.to_string()))?;
        self.answer(token, Answer::Success { output: output.to_owned() }).await
    }

    /// Ends the task that waits for `token` with an error. Without a name it is States.TaskFailed.
    ///
    /// # Errors
    /// InvalidToken, TaskDoesNotExist, TaskTimedOut, or a validation error for a length.
    pub async fn send_task_failure(
        &self,
        token: &str,
        error: Option<&str>,
        cause: Option<&str>,
    ) -> Result<(), ApiError> {
        const MAX_ERROR_CHARS: usize = 256;
        const MAX_CAUSE_CHARS: usize = 32_768;
        let error = error.filter(|error| !error.is_empty()).unwrap_or(failure::TASK_FAILED);
        let cause = cause.unwrap_or_default();
        if error.chars().count() > MAX_ERROR_CHARS || cause.chars().count() > MAX_CAUSE_CHARS {
            return Err(ApiError::Validation(format!(
                "an error's name has at most {MAX_ERROR_CHARS} characters and its cause {MAX_CAUSE_CHARS}"
            )));
        }
        self.answer(token, Answer::Failure { error: error.to_owned(), cause: cause.to_owned() }).await
    }

    /// Says that the task that waits for `token` is being worked on. Heartbeats are not in the subset, so
    /// this only tells whether the token still counts.
    ///
    /// # Errors
    /// InvalidToken, TaskDoesNotExist, TaskTimedOut.
    pub async fn send_task_heartbeat(&self, token: &str) -> Result<(), ApiError> {
        let execution = tokens::execution_of(token).ok_or(ApiError::InvalidToken)?;
        token_outcome(self.inner.store.token_state(token.to_owned(), execution).await?)
    }

    async fn answer(&self, token: &str, answer: Answer) -> Result<(), ApiError> {
        let inner = &self.inner;
        let execution = tokens::execution_of(token).ok_or(ApiError::InvalidToken)?;
        let work = inner.clock.work();
        let text =
            serde_json::to_string(&answer).map_err(|error| ApiError::InvalidOutput(error.to_string()))?;
        let (inner, token) = (Arc::clone(inner), token.to_owned());
        to_its_end(async move {
            let state = inner.store.answer_token(token.clone(), execution, text).await?;
            if state == TokenState::Waiting {
                inner.waiting.wake(&token, answer, work);
            }
            token_outcome(state)
        })
        .await
    }

    /// Forgets executions that ended before `before`, with their histories. Returns how many.
    ///
    /// # Errors
    /// The store's.
    pub async fn purge_ended_before(&self, before: Timestamp) -> Result<usize, ApiError> {
        Ok(self.inner.store.purge(before).await?)
    }

    /// When the machine was loaded by this process.
    ///
    /// # Errors
    /// InvalidArn, StateMachineDoesNotExist.
    pub fn describe_machine(&self, machine_arn: &str) -> Result<(Arc<crate::Machine>, Timestamp), ApiError> {
        let loaded = self.inner.loaded(machine_arn)?;
        Ok((Arc::clone(&loaded.machine), loaded.since))
    }
}

/// Runs what must not be left between the store and the running branches. Whoever asked may be gone before it is done:
/// a client that hangs up, a function that dies.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    // A task ends early only with the runtime.
    tokio::spawn(work).await.unwrap_or_else(|_| Err(StoreError::Stopped.into()))
}

impl Inner {
    fn loaded(&self, machine_arn: &str) -> Result<&Loaded, ApiError> {
        let loaded = match self.home.parse_machine(machine_arn) {
            Parsed::Here(name) => self.machines.get(&name),
            Parsed::Elsewhere => None,
            Parsed::NoArn => return Err(ApiError::InvalidArn(machine_arn.to_owned())),
        };
        loaded.ok_or_else(|| ApiError::StateMachineDoesNotExist(machine_arn.to_owned()))
    }

    async fn find(&self, execution_arn: &str) -> Result<ExecutionRow, ApiError> {
        let row = match self.home.parse_execution(execution_arn) {
            Parsed::Here((machine, name)) => self.store.execution(machine, name).await?,
            Parsed::Elsewhere => None,
            Parsed::NoArn => return Err(ApiError::InvalidArn(execution_arn.to_owned())),
        };
        row.ok_or_else(|| ApiError::ExecutionDoesNotExist(execution_arn.to_owned()))
    }

    async fn start(
        self: &Arc<Self>,
        loaded: &Loaded,
        name: String,
        input: Document,
        work: Work,
    ) -> Result<StartedExecution, ApiError> {
        let machine = &loaded.machine;
        let started_at = self.now();
        let deadline = machine
            .timeout_seconds()
            .and_then(|seconds| started_at.checked_add(SignedDuration::from_secs(seconds as i64)).ok());
        let event =
            Happening::execution_started(&input.text, &self.home.role_arn()).into_event(Some(0), started_at);
        let new = NewExecution {
            machine: machine.name().to_owned(),
            name: name.clone(),
            definition_id: loaded.definition_id,
            input: Arc::clone(&input.text),
            started_at,
            deadline,
            event,
        };
        let arn = self.home.execution_arn(machine.name(), &name);
        let id = match self.store.start(new).await? {
            Started::New(id) => id,
            Started::Existing(row) => {
                let same_input =
                    serde_json::from_str::<Value>(&row.input).is_ok_and(|old| old == *input.value);
                if row.stopped_at.is_none() && same_input {
                    return Ok(StartedExecution { arn, started_at: row.started_at });
                }
                return Err(ApiError::ExecutionAlreadyExists(arn));
            }
        };
        let row = ExecutionRow {
            id,
            machine: machine.name().to_owned(),
            name,
            definition_id: loaded.definition_id,
            input: String::new(),
            status: ExecutionStatus::Running.as_str().to_owned(),
            output: None,
            error: None,
            cause: None,
            started_at,
            stopped_at: None,
            deadline,
            transitions: 0,
        };
        let run = Run::new(Arc::clone(self), Arc::clone(machine), &row, &input, Left::default());
        self.launch(run, Start::Fresh(input), work);
        Ok(StartedExecution { arn, started_at })
    }

    /// Closes a running execution as aborted; None if it is not running any more.
    async fn abort(
        self: &Arc<Self>,
        row: &ExecutionRow,
        error: Option<String>,
        cause: Option<String>,
    ) -> Result<Option<Timestamp>, ApiError> {
        let at = self.now();
        let failure = (error.is_some() || cause.is_some())
            .then(|| Failure::new(error.as_deref().unwrap_or_default(), cause.clone().unwrap_or_default()));
        let event = Happening::execution_ended_badly("Aborted", failure.as_ref()).into_event(Some(0), at);
        let closing = Closing {
            status: ExecutionStatus::Aborted.as_str(),
            output: None,
            error,
            cause,
            at,
            announced: self.on_end.is_none(),
        };
        let step = Step {
            execution: row.id,
            events: vec![event],
            transitions: 0,
            changes: Vec::new(),
            closing: Some(closing),
        };
        let stored = self.store.step(Arc::new(step)).await?;
        if !matches!(stored, Stored::Done { .. }) {
            return Ok(None);
        }
        if let Some(running) = self.lock_running().get(&row.id) {
            running.cancel.cancel();
        }
        self.ended(row.id, &row.machine, &row.name).await;
        Ok(Some(at))
    }

    pub(super) fn describe(&self, row: ExecutionRow) -> Execution {
        Execution {
            id: row.id,
            arn: self.home.execution_arn(&row.machine, &row.name),
            machine_arn: self.home.machine_arn(&row.machine),
            status: status_of(&row.status),
            machine: row.machine,
            name: row.name,
            input: row.input,
            output: row.output,
            error: row.error,
            cause: row.cause,
            started_at: row.started_at,
            stopped_at: row.stopped_at,
            transitions: row.transitions.unsigned_abs(),
        }
    }
}

fn status_of(text: &str) -> ExecutionStatus {
    // Only the five are ever written.
    text.parse().unwrap_or(ExecutionStatus::Running)
}

fn token_outcome(state: TokenState) -> Result<(), ApiError> {
    match state {
        TokenState::Waiting => Ok(()),
        TokenState::Over => Err(ApiError::TaskTimedOut),
        TokenState::Unknown => Err(ApiError::TaskDoesNotExist),
    }
}

fn checked_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    // 0 stands for the default in the AWS API.
    match limit.filter(|limit| *limit != 0).unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(ApiError::Validation("maxResults must be from 0 to 1000".to_owned())),
    }
}

fn parse_list_token(token: &str) -> Result<(i64, i64), ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad_page_token())?;
    let text = String::from_utf8(bytes).map_err(|_| bad_page_token())?;
    let (at, id) = text.split_once(':').ok_or_else(bad_page_token)?;
    at.parse().ok().zip(id.parse().ok()).ok_or_else(bad_page_token)
}

fn bad_page_token() -> ApiError {
    ApiError::Validation("nextToken is not one that this list gave out".to_owned())
}
