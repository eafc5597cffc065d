//! What outlives the process: executions, where their branches stand, and their history, in SQLite.

mod executions;
mod schema;
mod steps;
mod tokens;
mod writer;

use std::fs::{OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

pub(crate) use self::executions::{ExecutionRow, HistoryPage, ListQuery, NewExecution, Recovered, Started};
pub(crate) use self::steps::{Change, Closing, Cursor, Phase, Step, Stored};
pub(crate) use self::tokens::TokenState;
pub use self::writer::CrashPoint;
use self::writer::Writer;

/// Why the store could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own words, for example that the disk is full.
    #[error("the workflow store failed: {0}")]
    Database(Arc<rusqlite::Error>),
    /// The file could not be made or opened.
    #[error("the workflow store {path:?} cannot be opened: {reason}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Two processes on one store would run every execution twice.
    #[error("the workflow store {0:?} is in use by another process; stop that one first")]
    InUse(PathBuf),
    /// The file was written by another version of this program.
    #[error(
        "the workflow store has layout {found} and this program knows layout {known}; \
         run the version that wrote it"
    )]
    Version {
        /// The layout in the file.
        found: i64,
        /// The only layout that this program reads.
        known: i64,
    },
    /// The engine was shut down.
    #[error("the workflow engine has stopped")]
    Stopped,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// How long another process may have the store before it counts as taken.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// When to look again.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The store of one engine.
#[derive(Debug)]
pub(crate) struct Store {
    writer: Writer,
    reader: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens the file, making it if it is not there.
    pub(crate) fn open(path: &Path, crash: Option<CrashPoint>) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Open { path: path.to_owned(), reason };
        let lock_path = path.with_added_extension("lock");
        // The store holds task tokens, which are secrets. SQLite gives its side files the mode of this one.
        let private = |path: &Path| OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let lock = private(&lock_path).map_err(|error| refused(error.to_string()))?;
        // A process that was killed while it started another shares the lock with that until it runs its own program.
        let patience = Instant::now() + LOCK_WITHIN;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < patience => std::thread::sleep(LOCK_AGAIN),
                Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(path.to_owned())),
                Err(TryLockError::Error(error)) => return Err(refused(error.to_string())),
            }
        }
        private(path).map_err(|error| refused(error.to_string()))?;
        let connection = Connection::open(path).map_err(|error| refused(error.to_string()))?;
        schema::prepare(&connection)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags)?;
        reader.execute_batch("PRAGMA busy_timeout = 5000")?;
        let writer = Writer::start(connection, lock, crash).map_err(|error| refused(error.to_string()))?;
        Ok(Self { writer, reader: Arc::new(Mutex::new(reader)) })
    }

    /// Ends when the store has stopped, by [`Store::close`] or at a crash point.
    pub(crate) async fn stopped(&self) {
        self.writer.stopped().await;
    }

    /// Writes what is queued and closes the file.
    pub(crate) async fn close(&self) {
        self.writer.close().await;
    }

    /// Reads on a connection of its own, so that a long listing does not hold up the machines.
    async fn read<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let reader = Arc::clone(&self.reader);
        let read = move || {
            let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => result.map_err(StoreError::from),
            // The runtime is going down, or a row was not what it must be and panicked: no answer either way.
            Err(_) => Err(StoreError::Stopped),
        }
    }
}
