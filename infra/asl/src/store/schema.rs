//! The tables.

use rusqlite::Connection;

use super::StoreError;

/// Raised with every change of the tables.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE definition (
    id INTEGER PRIMARY KEY,
    machine TEXT NOT NULL,
    body TEXT NOT NULL,
    first_loaded_at INTEGER NOT NULL,
    UNIQUE (machine, body)
) STRICT;

-- Times are milliseconds since 1970.
CREATE TABLE execution (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    machine TEXT NOT NULL,
    name TEXT NOT NULL,
    definition_id INTEGER NOT NULL REFERENCES definition (id),
    input TEXT NOT NULL,
    status TEXT NOT NULL,
    output TEXT,
    error TEXT,
    cause TEXT,
    started_at INTEGER NOT NULL,
    stopped_at INTEGER,
    deadline INTEGER,
    last_event INTEGER NOT NULL,
    transitions INTEGER NOT NULL,
    -- 0 until somebody was told of the end.
    announced INTEGER NOT NULL,
    UNIQUE (machine, name)
) STRICT;
CREATE INDEX execution_by_start ON execution (machine, started_at, id);
CREATE INDEX execution_by_stop ON execution (stopped_at) WHERE stopped_at IS NOT NULL;
CREATE INDEX execution_unfinished ON execution (id) WHERE status = 'RUNNING' OR announced = 0;

-- Where each branch of a running execution stands. The root's path is empty; an iteration's path is its
-- parent's, a slash and its index.
CREATE TABLE cursor (
    execution_id INTEGER NOT NULL REFERENCES execution (id),
    path TEXT NOT NULL,
    state TEXT NOT NULL,
    input TEXT NOT NULL,
    entered_at INTEGER NOT NULL,
    phase TEXT NOT NULL,
    retries TEXT NOT NULL,
    task_token TEXT,
    wake_at INTEGER,
    deadline INTEGER,
    callback TEXT,
    last_event INTEGER NOT NULL,
    PRIMARY KEY (execution_id, path)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX cursor_by_token ON cursor (task_token) WHERE task_token IS NOT NULL;

-- What finished iterations of a Map that is still running gave.
CREATE TABLE iteration (
    execution_id INTEGER NOT NULL REFERENCES execution (id),
    path TEXT NOT NULL,
    output TEXT NOT NULL,
    PRIMARY KEY (execution_id, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    execution_id INTEGER NOT NULL REFERENCES execution (id),
    id INTEGER NOT NULL,
    previous_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    details TEXT NOT NULL,
    PRIMARY KEY (execution_id, id)
) STRICT, WITHOUT ROWID;
";

/// Makes the connection ours: settings, and the tables if the file is new.
pub(super) fn prepare(connection: &Connection) -> Result<(), StoreError> {
    // NORMAL keeps every commit over a kill of this process; only a crash of the machine itself can lose
    // the last ones, and then the states are entered again.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA busy_timeout = 5000;
         PRAGMA temp_store = MEMORY;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        VERSION => Ok(()),
        0 => {
            connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?;
            Ok(())
        }
        found => Err(StoreError::Version { found, known: VERSION }),
    }
}
