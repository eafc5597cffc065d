//! One step of an execution: its new position and what happened on the way, in one transaction.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError};
use crate::history::Event;
use crate::limits;

/// Where a branch stands.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    /// Empty for the root; for an iteration its parent's path, a slash and its index.
    pub(crate) path: String,
    pub(crate) state: String,
    /// The state's raw input, as JSON.
    pub(crate) input: Arc<str>,
    pub(crate) entered_at: Timestamp,
    pub(crate) phase: Phase,
    /// Retries so far, one count per entry of the state's Retry.
    pub(crate) retries: Vec<u64>,
    pub(crate) task_token: Option<String>,
    /// When a Wait, or the delay before a retry, is over.
    pub(crate) wake_at: Option<Timestamp>,
    /// When the task times out.
    pub(crate) deadline: Option<Timestamp>,
    /// The branch's latest event; set by the store.
    pub(crate) last_event: i64,
}

/// What a branch is doing in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// What the state is there for; after a crash it is done again.
    Acting,
    /// The function returned and the task waits for its token; after a crash it only waits.
    Submitted,
    /// Waiting before a retry.
    BackingOff,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Acting => "acting",
            Self::Submitted => "submitted",
            Self::BackingOff => "backing_off",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Acting, Self::Submitted, Self::BackingOff].into_iter().find(|phase| phase.as_str() == text)
    }
}

/// A change beside the events.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// The branch stands here now.
    Put(Cursor),
    /// The function of the branch's task returned. Apart from [`Change::Put`], because an answer for the
    /// token may be stored already and must stay.
    Submit(String),
    /// The branch at this path is over, and so are its iterations.
    Drop(String),
    /// The iterations of the branch at this path are over.
    DropIterations(String),
    /// The iteration at this path ended with this output.
    PutIteration(String, Arc<str>),
}

/// The end of an execution.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    pub(crate) status: &'static str,
    pub(crate) output: Option<Arc<str>>,
    pub(crate) error: Option<String>,
    pub(crate) cause: Option<String>,
    pub(crate) at: Timestamp,
    /// Whether nobody has to be told.
    pub(crate) announced: bool,
}

/// What is stored together or not at all.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) execution: i64,
    pub(crate) events: Vec<Event>,
    /// States entered and retries begun.
    pub(crate) transitions: i64,
    pub(crate) changes: Vec<Change>,
    pub(crate) closing: Option<Closing>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is stored; this is the number of its last event.
    Done { last_event: i64 },
    /// The execution is not running any more; nothing was stored.
    Gone,
    /// The history has no room for it; nothing was stored.
    HistoryFull,
}

impl Store {
    /// Stores a step if its execution is still running.
    pub(crate) async fn step(&self, step: Arc<Step>) -> Result<Stored, StoreError> {
        self.writer.call(move |connection| apply(connection, &step)).await
    }
}

fn apply(connection: &Connection, step: &Step) -> rusqlite::Result<Stored> {
    let count = step.events.len() as i64;
    // The condition on the status is what keeps a stopped execution from going on.
    let last_event: Option<i64> = connection
        .prepare_cached(
            "UPDATE execution SET last_event = last_event + ?2, transitions = transitions + ?3
             WHERE id = ?1 AND status = 'RUNNING' RETURNING last_event",
        )?
        .query_row(params![step.execution, count, step.transitions], |row| row.get(0))
        .optional()?;
    let Some(last_event) = last_event else { return Ok(Stored::Gone) };
    // One event is kept free for the one that ends the execution.
    if step.closing.is_none() && last_event >= limits::MAX_HISTORY_EVENTS {
        connection
            .prepare_cached(
                "UPDATE execution SET last_event = last_event - ?2, transitions = transitions - ?3 WHERE id = ?1",
            )?
            .execute(params![step.execution, count, step.transitions])?;
        return Ok(Stored::HistoryFull);
    }
    insert_events(connection, step.execution, last_event - count, &step.events)?;
    for change in &step.changes {
        apply_change(connection, step.execution, last_event, change)?;
    }
    if let Some(closing) = &step.closing {
        close(connection, step.execution, closing)?;
    }
    Ok(Stored::Done { last_event })
}

pub(super) fn insert_events(
    connection: &Connection,
    execution: i64,
    before: i64,
    events: &[Event],
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO event (execution_id, id, previous_id, at, kind, details) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (id, event) in (before + 1..).zip(events) {
        let previous = event.previous.unwrap_or(id - 1);
        insert.execute(params![
            execution,
            id,
            previous,
            event.at.as_millisecond(),
            event.kind,
            event.details
        ])?;
    }
    Ok(())
}

fn apply_change(
    connection: &Connection,
    execution: i64,
    last_event: i64,
    change: &Change,
) -> rusqlite::Result<()> {
    match change {
        Change::Put(cursor) => put(connection, execution, last_event, cursor),
        Change::Submit(path) => {
            connection
                .prepare_cached(
                    "UPDATE cursor SET phase = ?3, last_event = ?4 WHERE execution_id = ?1 AND path = ?2",
                )?
                .execute(params![execution, path, Phase::Submitted.as_str(), last_event])?;
            Ok(())
        }
        Change::Drop(path) => {
            connection
                .prepare_cached("DELETE FROM cursor WHERE execution_id = ?1 AND path = ?2")?
                .execute(params![execution, path])?;
            drop_iterations(connection, execution, path)
        }
        Change::DropIterations(path) => drop_iterations(connection, execution, path),
        Change::PutIteration(path, output) => {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO iteration (execution_id, path, output) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![execution, path, output])?;
            Ok(())
        }
    }
}

fn put(connection: &Connection, execution: i64, last_event: i64, cursor: &Cursor) -> rusqlite::Result<()> {
    let retries = serde_json::to_string(&cursor.retries).unwrap_or_default();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO cursor (execution_id, path, state, input, entered_at, phase, retries,
                 task_token, wake_at, deadline, callback, last_event)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, ?11)",
        )?
        .execute(params![
            execution,
            cursor.path,
            cursor.state,
            cursor.input,
            cursor.entered_at.as_millisecond(),
            cursor.phase.as_str(),
            retries,
            cursor.task_token,
            cursor.wake_at.map(Timestamp::as_millisecond),
            cursor.deadline.map(Timestamp::as_millisecond),
            last_event,
        ])?;
    Ok(())
}

/// Everything below `path`. "0" is the character after "/", so this is a range of the primary key.
fn drop_iterations(connection: &Connection, execution: i64, path: &str) -> rusqlite::Result<()> {
    let (from, to) = (format!("{path}/"), format!("{path}0"));
    connection
        .prepare_cached("DELETE FROM cursor WHERE execution_id = ?1 AND path > ?2 AND path < ?3")?
        .execute(params![execution, from, to])?;
    connection
        .prepare_cached("DELETE FROM iteration WHERE execution_id = ?1 AND path > ?2 AND path < ?3")?
        .execute(params![execution, from, to])?;
    Ok(())
}

fn close(connection: &Connection, execution: i64, closing: &Closing) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE execution SET status = ?2, output = ?3, error = ?4, cause = ?5, stopped_at = ?6, announced = ?7
             WHERE id = ?1",
        )?
        .execute(params![
            execution,
            closing.status,
            closing.output,
            closing.error,
            closing.cause,
            closing.at.as_millisecond(),
            closing.announced,
        ])?;
    connection.prepare_cached("DELETE FROM cursor WHERE execution_id = ?1")?.execute(params![execution])?;
    connection
        .prepare_cached("DELETE FROM iteration WHERE execution_id = ?1")?
        .execute(params![execution])?;
    Ok(())
}
