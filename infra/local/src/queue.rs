//! The queue between the file store and the sync handler: SQS in AWS, a table on disk here. A message is on disk before
//! the upload is answered, is delivered at least once, and after five failures is kept aside for people to look at.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, params};
use tokio::sync::Notify;

/// Failures after which a message is set aside, as the template's redrive policy has it.
const TRIES: u32 = 5;
/// Messages delivered together, as the template's event source has it.
pub const BATCH: usize = 10;

/// A queue on disk.
#[derive(Debug, Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Mutex<Connection>,
    pushed: Notify,
}

/// A message that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub id: i64,
    /// Its text.
    pub body: String,
    /// How often it failed.
    pub failures: u32,
}

impl Queue {
    /// Opens the queue at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let db = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS message (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL,
                 failures INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL, aside INTEGER NOT NULL DEFAULT 0);
             CREATE INDEX IF NOT EXISTS message_due ON message (aside, due, id);",
        )?;
        Ok(Self { inner: Arc::new(Inner { db: Mutex::new(db), pushed: Notify::new() }) })
    }

    fn db<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        let db = self.inner.db.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(work(&db)?)
    }

    /// Puts a message on disk.
    ///
    /// # Errors
    /// It could not be written.
    pub fn push(&self, body: &str) -> anyhow::Result<()> {
        self.db(|db| db.execute("INSERT INTO message (body, due) VALUES (?1, 0)", [body]))?;
        self.inner.pushed.notify_one();
        Ok(())
    }

    /// The messages that are due at `now` (milliseconds), oldest first, at most [`BATCH`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn due(&self, now: i64) -> anyhow::Result<Vec<Message>> {
        self.db(|db| {
            let sql = "SELECT id, body, failures FROM message WHERE aside = 0 AND due <= ?1 ORDER BY id LIMIT ?2";
            let mut query = db.prepare_cached(sql)?;
            let read = |row: &rusqlite::Row<'_>| {
                Ok(Message { id: row.get(0)?, body: row.get(1)?, failures: row.get(2)? })
            };
            query.query_map(params![now, BATCH as i64], read)?.collect()
        })
    }

    /// The message is worked off.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn done(&self, id: i64) -> anyhow::Result<()> {
        self.db(|db| db.execute("DELETE FROM message WHERE id = ?1", [id])).map(|_| ())
    }

    /// The message failed: it comes again after a pause that doubles, or is set aside.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn failed(&self, message: &Message, now: i64) -> anyhow::Result<()> {
        let failures = message.failures + 1;
        let pause = 1_000 * (1i64 << failures.min(6));
        let aside = i64::from(failures >= TRIES);
        let sql = "UPDATE message SET failures = ?2, due = ?3, aside = ?4 WHERE id = ?1";
        self.db(|db| db.execute(sql, params![message.id, failures, now + pause, aside])).map(|_| ())
    }

    /// Messages that were set aside.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn set_aside(&self) -> anyhow::Result<u64> {
        self.db(|db| db.query_row("SELECT count(*) FROM message WHERE aside = 1", [], |row| row.get(0)))
    }

    /// Waits for a push, or for `at_most`.
    pub async fn wait(&self, at_most: Duration) {
        drop(tokio::time::timeout(at_most, self.inner.pushed.notified()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_reopening_and_is_set_aside_after_five_failures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        Queue::open(&path).unwrap().push("one").unwrap();
        let queue = Queue::open(&path).unwrap();
        let mut now = 0;
        for failures in 0..5 {
            let due = queue.due(now).unwrap();
            assert_eq!((due.len(), due[0].failures), (1, failures));
            queue.failed(&due[0], now).unwrap();
            assert_eq!(queue.due(now).unwrap(), []);
            now += 100_000;
        }
        assert_eq!(queue.due(now).unwrap(), []);
        assert_eq!(queue.set_aside().unwrap(), 1);
    }

    #[test]
    fn messages_come_in_order_and_leave_when_done() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(&dir.path().join("queue.db")).unwrap();
        for n in 0..12 {
            queue.push(&n.to_string()).unwrap();
        }
        let first: Vec<String> = queue.due(0).unwrap().into_iter().map(|message| message.body).collect();
        assert_eq!(first, (0..10).map(|n: u32| n.to_string()).collect::<Vec<_>>());
        for message in queue.due(0).unwrap() {
            queue.done(message.id).unwrap();
        }
        assert_eq!(queue.due(0).unwrap().len(), 2);
    }
}
