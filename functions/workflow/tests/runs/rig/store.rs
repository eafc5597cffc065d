//! The record store with crash points around each write.

use std::sync::Arc;
use std::time::Duration;

use pvm_application::store::{
    Committed, Delta, Key, Listing, Page, Purge, ReadStore, Record, StoreError, Tx, WriteStore,
};
use pvm_aws::Dynamo;
use pvm_domain::event::{Event, LogId};

use super::crash::Points;

#[derive(Debug, Clone)]
pub struct Store {
    pub inner: Dynamo,
    pub points: Arc<Points>,
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
        let done = self.inner.commit(tx).await;
        self.points.pass("after a commit").await;
        done
    }
    async fn put_delta(&self, log: &LogId, delta: &Delta) -> Result<(), StoreError> {
        self.inner.put_delta(log, delta).await
    }
    async fn purge(&self, what: Purge, limit: u32) -> Result<u32, StoreError> {
        self.inner.purge(what, limit).await
    }
}
