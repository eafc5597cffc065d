//! Records and events in two DynamoDB tables.
//!
//! An item's upper-case attributes (`PK`, `SK`, `GSI1PK` ..., `KIND`) and `ttl` belong to this adapter, all others are
//! the record's fields. Events are numbered here: the item `LOG` of a partition holds the last number, and each unit of
//! work raises it in the transaction that writes the events.

mod commit;
mod errors;
mod item;
mod purge;
mod read;
mod watches;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use pvm_application::store::{Committed, Delta, Key, Listing, Page, Purge, ReadStore, Record, StoreError};
use pvm_application::store::{Tx, WriteStore};
use pvm_domain::Timestamp;
use pvm_domain::event::{Event, LogId};

use watches::Watches;

/// Names of the two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The table of records.
    pub app: String,
    /// The table of events and deltas.
    pub events: String,
}

/// How the adapter behaves.
#[derive(Clone)]
pub struct DynamoSettings {
    /// The longest that [`ReadStore::wait_for_append`] waits unless it is woken. `None` where every writer is a clone
    /// of this very adapter (one process), so that every append wakes; a short time where other processes write.
    pub poll_interval: Option<Duration>,
    /// The time, by which an expired item counts as absent.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Default for DynamoSettings {
    /// For many processes: polls every 500 ms.
    fn default() -> Self {
        Self { poll_interval: Some(Duration::from_millis(500)), now: Arc::new(Timestamp::now) }
    }
}

impl fmt::Debug for DynamoSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoSettings").field("poll_interval", &self.poll_interval).finish_non_exhaustive()
    }
}

/// The record store on DynamoDB. Clones share one client and wake each other's waiters.
#[derive(Debug, Clone)]
pub struct Dynamo {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    tables: Tables,
    settings: DynamoSettings,
    watches: Watches,
}

impl Dynamo {
    /// A store on `tables` that other processes write as well.
    pub fn new(client: Client, tables: Tables) -> Self {
        Self::with_settings(client, tables, DynamoSettings::default())
    }

    /// A store on `tables`.
    pub fn with_settings(client: Client, tables: Tables, settings: DynamoSettings) -> Self {
        Self { inner: Arc::new(Inner { client, tables, settings, watches: Watches::default() }) }
    }
}

impl ReadStore for Dynamo {
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
        let inner = &self.inner;
        let at_most = inner.settings.poll_interval.map_or(at_most, |poll| at_most.min(poll));
        inner.watches.wait(log, seen, at_most, || inner.log_head(log)).await;
    }

    async fn deltas(&self, message: &str) -> Result<Vec<Delta>, StoreError> {
        self.inner.deltas(message).await
    }
}

impl WriteStore for Dynamo {
    async fn commit(&self, tx: Tx) -> Result<Committed, StoreError> {
        self.inner.commit(tx).await
    }

    async fn put_delta(&self, log: &LogId, delta: &Delta) -> Result<(), StoreError> {
        self.inner.put_delta(delta).await?;
        self.inner.watches.delta(log);
        Ok(())
    }

    async fn purge(&self, what: Purge, limit: u32) -> Result<u32, StoreError> {
        self.inner.purge(what, limit).await
    }
}
