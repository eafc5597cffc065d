//! The record store with crash points around each write.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pvm_application::store::{
    Committed, Delta, Key, Listing, Page, Purge, ReadStore, Record, StoreError, Tx, WriteStore,
};
use pvm_asl::{Clock as _, SimClock, Work};
use pvm_aws::Dynamo;
use pvm_domain::event::{Event, EventType, LogId};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::crash::Points;

#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub inner: Dynamo,
    pub points: Arc<Points>,
    pub watch: Watch,
}

/// Whoever listens to committed events, if anybody does.
type Listener = Arc<Mutex<Option<UnboundedSender<(EventType, Mark)>>>>;

/// Tells somebody of committed events at the very moment, with a mark that holds simulated time until they have acted.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    clock: SimClock,
    listener: Listener,
    marks: Arc<AtomicUsize>,
}

/// Holds simulated time, and counts as something to be done.
#[derive(Debug)]
pub(crate) struct Mark {
    work: Option<Work>,
    count: Arc<AtomicUsize>,
}

impl Drop for Mark {
    fn drop(&mut self) {
        // Counted off before time may go on.
        self.count.fetch_sub(1, Ordering::SeqCst);
        drop(self.work.take());
    }
}

impl Watch {
    pub(crate) fn new(clock: &SimClock) -> Self {
        Self { clock: clock.clone(), listener: Arc::default(), marks: Arc::default() }
    }

    /// Everything that is committed from here on.
    pub(crate) fn listen(&self) -> UnboundedReceiver<(EventType, Mark)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.listener.lock().unwrap() = Some(sender);
        receiver
    }

    /// Whether whoever listens has dealt with all of it.
    pub(crate) fn all_done(&self) -> bool {
        self.marks.load(Ordering::SeqCst) == 0
    }

    fn tell(&self, kinds: Vec<EventType>) {
        let listener = self.listener.lock().unwrap();
        let Some(listener) = listener.as_ref() else { return };
        for kind in kinds {
            // Nobody listening any more is fine.
            self.marks.fetch_add(1, Ordering::SeqCst);
            let mark = Mark { work: Some(self.clock.work()), count: Arc::clone(&self.marks) };
            drop(listener.send((kind, mark)));
        }
    }
}

impl ReadStore for Store {
    async fn get<R: Record>(&self, key: &Key) -> Result<Option<R>, StoreError> {
        self.inner.get(key).await
    }
    async fn list<R: Record>(&self, listing: Listing) -> Result<Page<R>, StoreError> {
        self.inner.list(listing).await
    }
    async fn events(&self, log: &LogId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.inner.events(log, after, limit).await
    }
    async fn log_head(&self, log: &LogId) -> Result<u64, StoreError> {
        self.inner.log_head(log).await
    }
    async fn wait_for_append(&self, log: &LogId, seen: u64, at_most: Duration) {
        self.inner.wait_for_append(log, seen, at_most).await;
    }
    async fn deltas(&self, message: &str) -> Result<Vec<Delta>, StoreError> {
        self.inner.deltas(message).await
    }
}

impl WriteStore for Store {
    async fn commit(&self, tx: Tx) -> Result<Committed, StoreError> {
        self.points.pass("before a commit").await;
        let kinds: Vec<EventType> =
            tx.appends.iter().flat_map(|(_, events)| events.iter().map(|event| event.kind)).collect();
        // In a task of its own: who dies here has sent the request, and what is committed is told in any case.
        let (inner, watch, mark) = (self.inner.clone(), self.watch.clone(), self.watch.clock.work());
        let sent = tokio::spawn(async move {
            let done = inner.commit(tx).await;
            if done.is_ok() {
                watch.tell(kinds);
            }
            drop(mark);
            done
        });
        let done = sent.await.unwrap();
        self.points.pass("after a commit").await;
        done
    }
    async fn put_delta(&self, log: &LogId, delta: &Delta) -> Result<(), StoreError> {
        self.points.pass("before a piece of text").await;
        let done = self.inner.put_delta(log, delta).await;
        self.points.pass("after a piece of text").await;
        done
    }
    async fn purge(&self, what: Purge, limit: u32) -> Result<u32, StoreError> {
        self.inner.purge(what, limit).await
    }
}
