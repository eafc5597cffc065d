//! Following a log: its events, the text of messages in the making, and signs of life, until the run is over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pvm_domain::event::{Event, EventType, LogId};
use pvm_domain::{Timestamp, limits};
use serde_json::json;

use crate::error::AppResult;
use crate::events::{has_ended, page};
use crate::ports::Clock;
use crate::store::ReadStore;

/// Events read at once.
const EVENTS: u32 = 200;
/// How far back messages in the making are looked for when a stream is taken up again.
const LOOK_BACK: u64 = 500;
/// A stream stays open this long after the end of the run, in seconds: a client that sends the next message at once
/// keeps its stream.
const LINGER_SECS: u64 = 10;

/// What a stream sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A durable event.
    Event(Event),
    /// A piece of a message's text: has no number and is not sent again.
    Delta(Event),
    /// Nothing has happened; the connection is alive.
    Heartbeat,
}

/// A message in the making.
#[derive(Debug, Clone, Default)]
struct Open {
    attempt: u32,
    next_chunk: u32,
}

/// Follows one log.
#[derive(Debug)]
pub struct Follower<S, C> {
    store: S,
    clock: C,
    log: LogId,
    after: u64,
    open: BTreeMap<String, Open>,
    queue: VecDeque<Frame>,
    opened_at: Timestamp,
    sent_at: Timestamp,
    /// Whether events came since it was last asked whether the log has ended: only they can change that.
    news: bool,
    ended_at: Option<Timestamp>,
}

impl<S: ReadStore, C: Clock> Follower<S, C> {
    /// Follows `log` from the event after `after`.
    ///
    /// # Errors
    /// `invalid` where `after` lies beyond the log's end; of the store.
    pub async fn new(store: S, clock: C, log: LogId, after: u64) -> AppResult<Self> {
        let now = clock.now();
        let mut follower = Self {
            store,
            clock,
            log,
            after,
            open: BTreeMap::new(),
            queue: VecDeque::new(),
            opened_at: now,
            sent_at: now,
            news: true,
            ended_at: None,
        };
        if after > 0 {
            if follower.store.log_head(&follower.log).await? < after {
                return Err(page::beyond());
            }
            let from = after.saturating_sub(LOOK_BACK);
            let limit = u32::try_from(after - from).unwrap_or(EVENTS);
            for event in follower.store.events(&follower.log, from, limit).await? {
                follower.note(&event);
            }
        }
        Ok(follower)
    }

    /// What comes next, waited for; `None` when the stream is over.
    ///
    /// # Errors
    /// Of the store; the client takes the stream up again from the last event it got.
    pub async fn next(&mut self) -> AppResult<Option<Frame>> {
        loop {
            let now = self.clock.now();
            if let Some(frame) = self.queue.pop_front() {
                self.sent_at = now;
                return Ok(Some(frame));
            }
            let mut until = after(self.opened_at, limits::SSE_CLOSE_SECS);
            if now >= until {
                return Ok(None);
            }
            if self.read_events().await? || self.read_deltas().await? {
                continue;
            }
            if self.news {
                self.news = false;
                self.ended_at = has_ended(&self.store, &self.log, self.after).await?.then_some(now);
            }
            if let Some(ended_at) = self.ended_at {
                until = until.min(after(ended_at, LINGER_SECS));
                if now >= until {
                    return Ok(None);
                }
            }
            let heartbeat = after(self.sent_at, limits::SSE_HEARTBEAT_SECS);
            if now >= heartbeat {
                self.sent_at = now;
                return Ok(Some(Frame::Heartbeat));
            }
            let wait = Duration::try_from(until.min(heartbeat).duration_since(now)).unwrap_or_default();
            self.store.wait_for_append(&self.log, self.after, wait).await;
        }
    }

    async fn read_events(&mut self) -> AppResult<bool> {
        let events = self.store.events(&self.log, self.after, EVENTS).await?;
        let any = !events.is_empty();
        for event in events {
            self.after = event.seq.unwrap_or(self.after);
            self.note(&event);
            self.queue.push_back(Frame::Event(event));
        }
        self.news |= any;
        Ok(any)
    }

    /// Keeps track of which messages are in the making.
    fn note(&mut self, event: &Event) {
        let Some(message_id) = event.data.get("message_id").and_then(|id| id.as_str()) else { return };
        match event.kind {
            EventType::MessageCreated if event.agent_id.is_some() => {
                self.open.entry(message_id.to_owned()).or_default();
            }
            EventType::MessageCompleted => {
                self.open.remove(message_id);
            }
            _ => {}
        }
    }

    async fn read_deltas(&mut self) -> AppResult<bool> {
        let mut any = false;
        for (message_id, open) in &mut self.open {
            for delta in self.store.deltas(message_id).await? {
                if delta.attempt > open.attempt {
                    *open = Open { attempt: delta.attempt, next_chunk: 0 };
                }
                if delta.attempt < open.attempt || delta.chunk < open.next_chunk {
                    continue;
                }
                open.next_chunk = delta.chunk + 1;
                any = true;
                self.queue.push_back(Frame::Delta(Event {
                    seq: None,
                    kind: EventType::Delta,
                    at: self.clock.now(),
                    agent_id: Some(delta.agent_id),
                    data: json!({
                        "message_id": delta.message_id, "attempt": delta.attempt,
                        "chunk": delta.chunk, "text": delta.text,
                    }),
                }));
            }
        }
        Ok(any)
    }
}

fn after(at: Timestamp, secs: u64) -> Timestamp {
    at.saturating_add(jiff::SignedDuration::from_secs(secs.cast_signed())).unwrap_or(at)
}
