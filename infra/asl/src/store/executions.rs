//! Executions as a whole: starting, finding, listing, answering tokens.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::steps::{Cursor, Phase, insert_events};
use super::{Store, StoreError};
use crate::history::Event;

/// A row of the execution table.
#[derive(Debug, Clone)]
pub(crate) struct ExecutionRow {
    pub(crate) id: i64,
    pub(crate) machine: String,
    pub(crate) name: String,
    pub(crate) definition_id: i64,
    pub(crate) input: String,
    pub(crate) status: String,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) cause: Option<String>,
    pub(crate) started_at: Timestamp,
    pub(crate) stopped_at: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) transitions: i64,
}

const EXECUTION_COLUMNS: &str = "id, machine, name, definition_id, input, status, output, error, cause, \
     started_at, stopped_at, deadline, transitions";

/// An execution that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewExecution {
    pub(crate) machine: String,
    pub(crate) name: String,
    pub(crate) definition_id: i64,
    pub(crate) input: Arc<str>,
    pub(crate) started_at: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) event: Event,
}

/// What became of a start.
#[derive(Debug, Clone)]
pub(crate) enum Started {
    New(i64),
    Existing(Box<ExecutionRow>),
}

/// A running execution as it was left.
#[derive(Debug, Clone)]
pub(crate) struct Recovered {
    pub(crate) row: ExecutionRow,
    /// By path.
    pub(crate) cursors: HashMap<String, Cursor>,
    /// Outputs of finished iterations, by path.
    pub(crate) iterations: HashMap<String, String>,
}

/// Which executions to list, newest first.
#[derive(Debug, Clone)]
pub(crate) struct ListQuery {
    pub(crate) machine: String,
    pub(crate) status: Option<String>,
    /// Start and id of the last one of the page before.
    pub(crate) before: Option<(i64, i64)>,
    pub(crate) limit: usize,
}

/// One entry of a list.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) started_at: Timestamp,
    pub(crate) stopped_at: Option<Timestamp>,
}

/// Which events to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryPage {
    /// The last event of the page before; 0 for the first page.
    pub(crate) after: i64,
    pub(crate) newest_first: bool,
    pub(crate) limit: usize,
}

/// An event as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredEvent {
    pub(crate) id: i64,
    pub(crate) previous_id: i64,
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    pub(crate) details: String,
}

impl Store {
    /// The number under which a machine's definition is kept. An execution goes on with the definition that
    /// it began with, also when the program was replaced in between.
    pub(crate) async fn keep_definition(
        &self,
        machine: String,
        body: String,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        self.writer
            .call(move |connection| {
                connection.execute(
                    "INSERT OR IGNORE INTO definition (machine, body, first_loaded_at) VALUES (?1, ?2, ?3)",
                    params![machine, body, now.as_millisecond()],
                )?;
                connection.query_row(
                    "SELECT id FROM definition WHERE machine = ?1 AND body = ?2",
                    params![machine, body],
                    |row| row.get(0),
                )
            })
            .await
    }

    /// Makes an execution, unless one of that name exists.
    pub(crate) async fn start(&self, new: NewExecution) -> Result<Started, StoreError> {
        self.writer
            .call(move |connection| {
                if let Some(existing) = find(connection, &new.machine, &new.name)? {
                    return Ok(Started::Existing(Box::new(existing)));
                }
                connection
                    .prepare_cached(
                        "INSERT INTO execution (machine, name, definition_id, input, status, started_at, deadline,
                             last_event, transitions, announced)
                         VALUES (?1, ?2, ?3, ?4, 'RUNNING', ?5, ?6, 1, 0, 0)",
                    )?
                    .execute(params![
                        new.machine,
                        new.name,
                        new.definition_id,
                        new.input,
                        new.started_at.as_millisecond(),
                        new.deadline.map(Timestamp::as_millisecond),
                    ])?;
                let id = connection.last_insert_rowid();
                insert_events(connection, id, 0, std::slice::from_ref(&new.event))?;
                Ok(Started::New(id))
            })
            .await
    }

    pub(crate) async fn execution(
        &self,
        machine: String,
        name: String,
    ) -> Result<Option<ExecutionRow>, StoreError> {
        self.read(move |connection| find(connection, &machine, &name)).await
    }

    /// Every running execution with all that is needed to go on.
    pub(crate) async fn recover(&self) -> Result<Vec<Recovered>, StoreError> {
        self.read(|connection| {
            let mut select = connection.prepare(&format!(
                "SELECT {EXECUTION_COLUMNS} FROM execution WHERE status = 'RUNNING' ORDER BY id"
            ))?;
            let rows: Vec<ExecutionRow> = select.query_map([], execution_row)?.collect::<Result<_, _>>()?;
            rows.into_iter()
                .map(|row| {
                    let cursors = cursors(connection, row.id)?;
                    let iterations = iterations(connection, row.id)?;
                    Ok(Recovered { row, cursors, iterations })
                })
                .collect()
        })
        .await
    }

    /// The stored definition with this number: the machine's name and the text.
    pub(crate) async fn definition(&self, id: i64) -> Result<(String, String), StoreError> {
        self.read(move |connection| {
            connection.query_row("SELECT machine, body FROM definition WHERE id = ?1", params![id], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
        .await
    }

    /// Ended executions that nobody was told of.
    pub(crate) async fn unannounced(&self) -> Result<Vec<ExecutionRow>, StoreError> {
        self.read(|connection| {
            let mut select = connection.prepare(&format!(
                "SELECT {EXECUTION_COLUMNS} FROM execution WHERE announced = 0 AND status <> 'RUNNING' ORDER BY id"
            ))?;
            select.query_map([], execution_row)?.collect()
        })
        .await
    }

    pub(crate) async fn mark_announced(&self, id: i64) -> Result<(), StoreError> {
        self.writer
            .call(move |connection| {
                connection
                    .prepare_cached("UPDATE execution SET announced = 1 WHERE id = ?1")?
                    .execute(params![id])?;
                Ok(())
            })
            .await
    }

    pub(crate) async fn list(&self, query: ListQuery) -> Result<Vec<Listed>, StoreError> {
        self.read(move |connection| {
            let (before_at, before_id) = query.before.unwrap_or((i64::MAX, i64::MAX));
            let mut select = connection.prepare_cached(
                "SELECT id, name, status, started_at, stopped_at FROM execution
                 WHERE machine = ?1 AND (started_at, id) < (?2, ?3) AND (?4 IS NULL OR status = ?4)
                 ORDER BY started_at DESC, id DESC LIMIT ?5",
            )?;
            let values = params![query.machine, before_at, before_id, query.status, query.limit as i64];
            select
                .query_map(values, |row| {
                    Ok(Listed {
                        id: row.get(0)?,
                        name: row.get(1)?,
                        status: row.get(2)?,
                        started_at: time(row, 3)?,
                        stopped_at: optional_time(row, 4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    pub(crate) async fn history(
        &self,
        execution: i64,
        page: HistoryPage,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read(move |connection| {
            let sql = if page.newest_first {
                "SELECT id, previous_id, at, kind, details FROM event
                 WHERE execution_id = ?1 AND (?2 = 0 OR id < ?2) ORDER BY id DESC LIMIT ?3"
            } else {
                "SELECT id, previous_id, at, kind, details FROM event
                 WHERE execution_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
            };
            let mut select = connection.prepare_cached(sql)?;
            select
                .query_map(params![execution, page.after, page.limit as i64], |row| {
                    Ok(StoredEvent {
                        id: row.get(0)?,
                        previous_id: row.get(1)?,
                        at: time(row, 2)?,
                        kind: row.get(3)?,
                        details: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Forgets executions that ended before `before`, and everything about them. Returns how many.
    pub(crate) async fn purge(&self, before: Timestamp) -> Result<usize, StoreError> {
        // In small bites, because running executions wait for the same writer.
        const BITE: i64 = 200;
        let mut total = 0;
        loop {
            let purged: usize = self
                .writer
                .call(move |connection| {
                    let doomed = "SELECT id FROM execution
                         WHERE stopped_at < ?1 AND announced = 1 ORDER BY stopped_at, id LIMIT ?2";
                    let values = params![before.as_millisecond(), BITE];
                    connection
                        .execute(&format!("DELETE FROM event WHERE execution_id IN ({doomed})"), values)?;
                    connection.execute(&format!("DELETE FROM execution WHERE id IN ({doomed})"), values)
                })
                .await?;
            total += purged;
            if purged < BITE as usize {
                break;
            }
        }
        self.writer
            .call(move |connection| {
                connection.execute(
                    "DELETE FROM definition WHERE first_loaded_at < ?1
                     AND id NOT IN (SELECT definition_id FROM execution)
                     AND id NOT IN (SELECT max(id) FROM definition GROUP BY machine)",
                    params![before.as_millisecond()],
                )
            })
            .await?;
        Ok(total)
    }
}

fn find(connection: &Connection, machine: &str, name: &str) -> rusqlite::Result<Option<ExecutionRow>> {
    connection
        .prepare_cached(&format!(
            "SELECT {EXECUTION_COLUMNS} FROM execution WHERE machine = ?1 AND name = ?2"
        ))?
        .query_row(params![machine, name], execution_row)
        .optional()
}

fn cursors(connection: &Connection, execution: i64) -> rusqlite::Result<HashMap<String, Cursor>> {
    let mut select = connection.prepare_cached(
        "SELECT path, state, input, entered_at, phase, retries, task_token, wake_at, deadline, last_event
         FROM cursor WHERE execution_id = ?1",
    )?;
    let cursors = select.query_map(params![execution], |row| {
        let phase: String = row.get(4)?;
        let retries: String = row.get(5)?;
        let cursor = Cursor {
            path: row.get(0)?,
            state: row.get(1)?,
            input: row.get::<_, String>(2)?.into(),
            entered_at: time(row, 3)?,
            phase: Phase::parse(&phase).ok_or_else(|| unreadable(4, "phase"))?,
            retries: serde_json::from_str(&retries).map_err(|_| unreadable(5, "retries"))?,
            task_token: row.get(6)?,
            wake_at: optional_time(row, 7)?,
            deadline: optional_time(row, 8)?,
            last_event: row.get(9)?,
        };
        Ok((cursor.path.clone(), cursor))
    })?;
    cursors.collect()
}

fn iterations(connection: &Connection, execution: i64) -> rusqlite::Result<HashMap<String, String>> {
    let mut select =
        connection.prepare_cached("SELECT path, output FROM iteration WHERE execution_id = ?1")?;
    select.query_map(params![execution], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn execution_row(row: &Row<'_>) -> rusqlite::Result<ExecutionRow> {
    Ok(ExecutionRow {
        id: row.get(0)?,
        machine: row.get(1)?,
        name: row.get(2)?,
        definition_id: row.get(3)?,
        input: row.get(4)?,
        status: row.get(5)?,
        output: row.get(6)?,
        error: row.get(7)?,
        cause: row.get(8)?,
        started_at: time(row, 9)?,
        stopped_at: optional_time(row, 10)?,
        deadline: optional_time(row, 11)?,
        transitions: row.get(12)?,
    })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|_| unreadable(column, "time"))
}

fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let value: Option<i64> = row.get(column)?;
    value.map(|ms| Timestamp::from_millisecond(ms).map_err(|_| unreadable(column, "time"))).transpose()
}

/// A value that this program cannot have written.
fn unreadable(column: usize, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        Type::Text,
        format!("the stored {what} is unreadable").into(),
    )
}
