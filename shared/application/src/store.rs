//! The record store as use cases see it: typed records, and one unit of work that commits records and events together.
//! One implementation exists, the DynamoDB adapter.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use pvm_domain::Timestamp;
use pvm_domain::event::{Event, LogId, NewEvent};
use pvm_domain::fair_use::{OwnerLimits, Resource, Use};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where a record is: partition and sort key. Made only by `keys`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

/// A place in an index: partition and sort key of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexKey {
    /// Partition key of the index.
    pub pk: String,
    /// Sort key of the index.
    pub sk: String,
}

/// Something stored as one item, with optimistic locking by `version`.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The kind's name, stored with the item.
    const KIND: &'static str;
    /// Where it is.
    fn key(&self) -> Key;
    /// Its version; 0 before it was first stored.
    fn version(&self) -> u64;
    /// Sets the version.
    fn set_version(&mut self, version: u64);
    /// Its place in GSI1 (listings by owner or project), if it is listed there.
    fn owner_index(&self) -> Option<IndexKey> {
        None
    }
    /// Its place in GSI2 (sparse sweeps), if the sweep should see it.
    fn sweep_index(&self) -> Option<IndexKey> {
        None
    }
    /// When the store may drop it; readers check the time as well.
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
    /// What storing it as it is now changes in its owner's use; notes in the record that this was counted.
    fn count(&mut self) -> Option<Use> {
        None
    }
    /// What removing it gives its owner back.
    fn uncount(&self) -> Option<Use> {
        None
    }
}

/// Which index a listing reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// The table itself, strongly consistent.
    Table,
    /// GSI1, eventually consistent.
    Owner,
    /// GSI2, eventually consistent.
    Sweep,
}

/// A listing: a partition and a range of sort keys within it.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Where to look.
    pub index: Index,
    /// Partition key.
    pub pk: String,
    /// Sort keys start with this.
    pub prefix: String,
    /// Sort keys are at most this (sweeps); checked instead of `prefix` where given.
    pub up_to: Option<String>,
    /// At most this many entries, 1 to 1,000.
    pub limit: u32,
    /// Newest (highest) first.
    pub descending: bool,
    /// Where the page before ended.
    pub after: Option<Position>,
}

impl Listing {
    /// All records of `pk` whose sort key starts with `prefix`, in order.
    pub fn of(pk: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            index: Index::Table,
            pk: pk.into(),
            prefix: prefix.into(),
            up_to: None,
            limit: pvm_domain::limits::LIST_MAX,
            descending: false,
            after: None,
        }
    }

    /// The same, read from `index`.
    #[must_use]
    pub fn from_index(mut self, index: Index) -> Self {
        self.index = index;
        self
    }

    /// The same, one page of it.
    #[must_use]
    pub fn page(mut self, limit: u32, after: Option<Position>) -> Self {
        self.limit = limit;
        self.after = after;
        self
    }

    /// The same, highest first.
    #[must_use]
    pub fn newest_first(mut self) -> Self {
        self.descending = true;
        self
    }
}

/// Where a page ended: the key attributes of its last item. Opaque to users (see `authorize::Cursors`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Position(pub BTreeMap<String, String>);

/// One page of a listing.
#[derive(Debug, Clone)]
pub struct Page<R> {
    /// Its entries.
    pub items: Vec<R>,
    /// Where the next page starts, if there is one.
    pub next: Option<Position>,
}

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A condition did not hold: the record at `key` was changed, made or removed by somebody else.
    #[error("the record at {key:?} is not as expected")]
    Conflict {
        /// Which record.
        key: Key,
    },
    /// A limit of fair use is reached; nothing was stored.
    #[error("the limit of {most} {} is reached", .resource.as_str())]
    Limit {
        /// Of what.
        resource: Resource,
        /// The limit.
        most: u64,
    },
    /// The store asks to slow down; trying again later is safe.
    #[error("the store is throttling")]
    Throttled(#[source] anyhow::Error),
    /// The store could not be reached or failed; trying again later is safe.
    #[error("the store did not answer")]
    Unavailable(#[source] anyhow::Error),
    /// A bug: a record that cannot be written or read.
    #[error("the store refused the request: {0}")]
    Broken(String),
}

/// Reads records: `GetItem` and `Query`.
pub trait ReadStore: Send + Sync {
    /// The record at `key`, strongly consistent.
    fn get<R: Record>(&self, key: &Key) -> impl Future<Output = Result<Option<R>, StoreError>> + Send;
    /// One page of a listing.
    fn list<R: Record>(&self, listing: Listing) -> impl Future<Output = Result<Page<R>, StoreError>> + Send;
    /// Events of a log with `seq > after`, in order, at most `limit`.
    fn events(
        &self,
        log: &LogId,
        after: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Event>, StoreError>> + Send;
    /// The `seq` of the log's last event; 0 for an empty log.
    fn log_head(&self, log: &LogId) -> impl Future<Output = Result<u64, StoreError>> + Send;
    /// Waits until something may have been appended to `log` after `seen`, or a delta written for it, or until
    /// `at_most` is over. Within one process it returns at the moment of the commit; elsewhere it is a plain wait.
    fn wait_for_append(&self, log: &LogId, seen: u64, at_most: Duration) -> impl Future<Output = ()> + Send;
    /// Deltas of a message that are kept, of its highest attempt, in order.
    fn deltas(&self, message: &str) -> impl Future<Output = Result<Vec<Delta>, StoreError>> + Send;
}

/// Writes records: one atomic unit of work at a time.
pub trait WriteStore: ReadStore {
    /// Commits all of `tx` or nothing. Events get contiguous numbers; a race on a log's number alone is retried inside.
    ///
    /// # Errors
    /// `Conflict` names the first record whose condition failed.
    fn commit(&self, tx: Tx) -> impl Future<Output = Result<Committed, StoreError>> + Send;
    /// Stores a delta; an equal (message, attempt, chunk) replaces the one before.
    fn put_delta(&self, log: &LogId, delta: &Delta) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Removes up to `limit` items of a partition of the event table or of the records; answers how many went.
    /// Used by deletions, which call it until it answers 0.
    fn purge(&self, what: Purge, limit: u32) -> impl Future<Output = Result<u32, StoreError>> + Send;
}

/// What a deletion removes.
#[derive(Debug, Clone)]
pub enum Purge {
    /// All records of a partition.
    Records {
        /// The partition.
        pk: String,
        /// The sort key of a record that stays.
        keep: Option<String>,
    },
    /// All events of a log.
    Log(LogId),
    /// What is kept of the text pieces of a message.
    Deltas(String),
}

/// A piece of text of a message in the making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Delta {
    /// The message.
    pub message_id: String,
    /// Try of the model call, from 1; a higher one voids the lower.
    pub attempt: u32,
    /// Place within the attempt, from 0.
    pub chunk: u32,
    /// The agent that speaks.
    pub agent_id: String,
    /// The text.
    pub text: String,
    /// When the store may drop it.
    pub expires_at: Timestamp,
}

/// The numbers that a commit's events got: first and last `seq` by log.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// Last `seq` of each log that was appended to.
    pub heads: Vec<(LogId, u64)>,
}

/// A condition on an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// There must be none.
    Absent,
    /// Its version must be this.
    Version(u64),
    /// There must be one.
    Present,
    /// No condition.
    Any,
}

/// One write of a unit of work.
#[derive(Debug, Clone)]
pub enum Op {
    /// Stores an item.
    Put {
        /// Where.
        key: Key,
        /// The record's kind.
        kind: &'static str,
        /// Its fields, `version` included.
        body: Value,
        /// GSI1.
        owner_index: Option<IndexKey>,
        /// GSI2.
        sweep_index: Option<IndexKey>,
        /// TTL.
        expires_at: Option<Timestamp>,
        /// What must hold.
        condition: Condition,
    },
    /// Removes an item.
    Delete {
        /// Where.
        key: Key,
        /// What must hold.
        condition: Condition,
    },
    /// Adds to a counter of an owner's use.
    Count {
        /// Where.
        key: Key,
        /// What changes.
        used: Use,
        /// What it must not exceed afterwards; `None` for changes that must not fail.
        most: Option<u64>,
        /// TTL.
        expires_at: Option<Timestamp>,
    },
    /// Only checks an item.
    Check {
        /// Where.
        key: Key,
        /// What must hold.
        condition: Condition,
    },
}

/// A unit of work: at most 100 writes and events together.
#[derive(Debug, Clone, Default)]
pub struct Tx {
    /// Its writes.
    pub ops: Vec<Op>,
    /// Its events, by log.
    pub appends: Vec<(LogId, Vec<NewEvent>)>,
}

impl Tx {
    /// An empty unit of work.
    pub fn new() -> Self {
        Self::default()
    }

    fn put<R: Record>(mut self, record: &R, condition: Condition) -> Self {
        // A record is a plain struct of ours: that it has a JSON form is checked by every test that stores one.
        let body = serde_json::to_value(record).unwrap_or(Value::Null);
        self.ops.push(Op::Put {
            key: record.key(),
            kind: R::KIND,
            body,
            owner_index: record.owner_index(),
            sweep_index: record.sweep_index(),
            expires_at: record.expires_at(),
            condition,
        });
        self
    }

    /// Stores a new record, which must not be there; its version becomes 1.
    #[must_use]
    pub fn create<R: Record>(self, record: &mut R) -> Self {
        record.set_version(1);
        let used = record.count();
        self.put(record, Condition::Absent).counted(used)
    }

    /// Stores a changed record, which must still have the version it was read with; its version goes up by one.
    #[must_use]
    pub fn update<R: Record>(self, record: &mut R) -> Self {
        let read = record.version();
        record.set_version(read + 1);
        let used = record.count();
        self.put(record, if read == 0 { Condition::Absent } else { Condition::Version(read) }).counted(used)
    }

    /// Stores a record whatever is there.
    #[must_use]
    pub fn overwrite<R: Record>(self, record: &mut R) -> Self {
        record.set_version(record.version() + 1);
        let used = record.count();
        self.put(record, Condition::Any).counted(used)
    }

    /// Removes a record that must still have the version it was read with.
    #[must_use]
    pub fn delete<R: Record>(mut self, record: &R) -> Self {
        self.ops.push(Op::Delete { key: record.key(), condition: Condition::Version(record.version()) });
        self.counted(record.uncount())
    }

    fn counted(self, used: Option<Use>) -> Self {
        match used {
            Some(used) => {
                let at = crate::keys::usage(&used.owner, used.resource);
                self.count(at, used, None)
            }
            None => self,
        }
    }

    /// Adds to the counter at `at`; several changes of one counter become one.
    #[must_use]
    pub fn count(mut self, at: Key, more: Use, until: Option<Timestamp>) -> Self {
        for op in &mut self.ops {
            if let Op::Count { key, used, .. } = op
                && *key == at
            {
                used.add += more.add;
                return self;
            }
        }
        self.ops.push(Op::Count { key: at, used: more, most: None, expires_at: until });
        self
    }

    /// Both units of work as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for op in other.ops {
            match op {
                Op::Count { key, used, expires_at, .. } => self = self.count(key, used, expires_at),
                op => self.ops.push(op),
            }
        }
        for (log, events) in other.appends {
            for event in events {
                self = self.append(&log, event);
            }
        }
        self
    }

    /// Demands that no counter that goes up exceeds its limit.
    #[must_use]
    pub fn within(mut self, limits: &OwnerLimits) -> Self {
        for op in &mut self.ops {
            if let Op::Count { used, most, .. } = op {
                *most = Some(limits.most(used.resource));
            }
        }
        self
    }

    /// Removes whatever is at `key`.
    #[must_use]
    pub fn remove(mut self, key: Key) -> Self {
        self.ops.push(Op::Delete { key, condition: Condition::Any });
        self
    }

    /// Demands that `record` is unchanged since it was read (the fence of a lease or run).
    #[must_use]
    pub fn check<R: Record>(mut self, record: &R) -> Self {
        self.ops.push(Op::Check { key: record.key(), condition: Condition::Version(record.version()) });
        self
    }

    /// Demands a condition on the item at `key`.
    #[must_use]
    pub fn require(mut self, key: Key, condition: Condition) -> Self {
        self.ops.push(Op::Check { key, condition });
        self
    }

    /// Appends an event to `log`.
    #[must_use]
    pub fn append(mut self, log: &LogId, event: NewEvent) -> Self {
        match self.appends.iter_mut().find(|(known, _)| known == log) {
            Some((_, events)) => events.push(event),
            None => self.appends.push((log.clone(), vec![event])),
        }
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.appends.is_empty()
    }
}
