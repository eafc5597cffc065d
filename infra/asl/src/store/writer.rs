//! One thread that writes. Whatever waits for it goes into one transaction, so that many executions share
//! the cost of a commit.

use std::fs::File;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::StoreError;

/// Most calls in one transaction; bounds how long the first of them waits for the last.
const MAX_BATCH: usize = 256;

/// Stops the store at a chosen write, as a crash of the process would, to prove that nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPoint {
    /// Which write, counted from 1 since the store was opened.
    pub write: u64,
    /// Whether that write still reaches the disk.
    pub after_commit: bool,
}

/// A unit of work for the writing thread.
trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Call<F, T> {
    work: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(connection)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { value, reply, .. } = *self;
        // A caller that is gone does not want the answer.
        drop(reply.send(outcome.and_then(|()| value.ok_or(StoreError::Stopped))));
    }
}

/// The way to the writing thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Sender<Message>,
    stopped: CancellationToken,
}

enum Message {
    Job(Box<dyn Job>),
    Stop,
}

impl Writer {
    /// `lock` is what keeps other processes out; it is given up when the thread ends.
    pub(super) fn start(
        connection: Connection,
        lock: File,
        crash: Option<CrashPoint>,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let stopped = CancellationToken::new();
        let guard = stopped.clone().drop_guard();
        let thread = Thread { connection, _lock: lock, inbox, crash, written: 0 };
        thread::Builder::new().name("asl-store".to_owned()).spawn(move || {
            thread.run();
            // After the connection is closed: whoever waits may open the file again.
            drop(guard);
        })?;
        Ok(Self { jobs, stopped })
    }

    /// Runs `work` in a transaction and answers when it is committed.
    pub(super) async fn call<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { work: Some(work), value: None, reply });
        self.jobs.send(Message::Job(job)).map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Ends when the thread has ended.
    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Finishes what is queued and closes the file.
    pub(super) async fn close(&self) {
        // An error means that it has already stopped.
        drop(self.jobs.send(Message::Stop));
        self.stopped().await;
    }
}

struct Thread {
    connection: Connection,
    _lock: File,
    inbox: Receiver<Message>,
    crash: Option<CrashPoint>,
    written: u64,
}

impl Thread {
    fn run(mut self) {
        while let Ok(message) = self.inbox.recv() {
            let mut batch = Vec::new();
            let mut stop = !collect(message, &mut batch);
            while !stop && batch.len() < MAX_BATCH {
                match self.inbox.try_recv() {
                    Ok(message) => stop = !collect(message, &mut batch),
                    Err(_) => break,
                }
            }
            let crashed = self.run_batch(batch);
            if stop || crashed {
                return;
            }
        }
    }

    /// True if the crash point was reached.
    fn run_batch(&mut self, batch: Vec<Box<dyn Job>>) -> bool {
        if let Err(error) = self.connection.execute_batch("BEGIN IMMEDIATE") {
            let error = StoreError::from(error);
            for job in batch {
                job.finish(Err(error.clone()));
            }
            return false;
        }
        let mut done = Vec::with_capacity(batch.len());
        let mut lost = None;
        for mut job in batch {
            self.written += 1;
            let crash = self.crash.filter(|crash| crash.write == self.written);
            if crash.is_some_and(|crash| !crash.after_commit) {
                lost = Some(job);
                break;
            }
            let outcome = run_job(&self.connection, job.as_mut());
            if crash.is_some() {
                lost = Some(job);
                break;
            }
            done.push((job, outcome));
        }
        let committed = self.connection.execute_batch("COMMIT").map_err(|error| {
            // The disk may be full: give back what the transaction holds and tell everybody in it.
            drop(self.connection.execute_batch("ROLLBACK"));
            StoreError::from(error)
        });
        for (job, outcome) in done {
            job.finish(outcome.and_then(|()| committed.clone()));
        }
        lost.is_some()
    }
}

/// False if the message asks to stop.
fn collect(message: Message, batch: &mut Vec<Box<dyn Job>>) -> bool {
    match message {
        Message::Job(job) => {
            batch.push(job);
            true
        }
        Message::Stop => false,
    }
}

/// One job that fails must not take the others of its batch with it, nor leave half of its work.
fn run_job(connection: &Connection, job: &mut dyn Job) -> Result<(), StoreError> {
    let outcome = (|| {
        connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        let outcome = job.run(connection);
        if outcome.is_err() {
            connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        connection.prepare_cached("RELEASE job")?.execute([])?;
        outcome
    })();
    outcome.map_err(StoreError::from)
}
