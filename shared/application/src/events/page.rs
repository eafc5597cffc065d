//! One page of a log, waited for where it is still empty.

use std::time::Duration;

use pvm_domain::event::{Event, LogId};
use serde_json::Value;

use crate::error::{AppError, AppResult};
use crate::events::has_ended;
use crate::ports::Clock;
use crate::store::ReadStore;

/// The most events of a page.
const EVENTS: u32 = 500;
/// The most bytes of a page's event data, encoded: a Lambda's answer holds 6 MB.
const BYTES: usize = 2 * 1024 * 1024;

/// A page of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPage {
    /// Its events, in order.
    pub events: Vec<Event>,
    /// The `after` of the next page.
    pub next_after: u64,
    /// Whether nothing more comes for now, and all of it was delivered.
    pub ended: bool,
}

/// Events of `log` after `after`; where there are none, waits up to `wait` for some.
///
/// # Errors
/// `invalid` where `after` lies beyond the log's end; of the store.
pub async fn page<S: ReadStore, C: Clock>(
    store: &S,
    clock: &C,
    log: &LogId,
    after: u64,
    wait: Duration,
) -> AppResult<LogPage> {
    let deadline = clock.now() + wait;
    loop {
        let read = store.events(log, after, EVENTS).await?;
        let whole = read.len() < EVENTS as usize;
        let (events, cut) = within(read);
        let next_after = events.last().and_then(|event| event.seq).unwrap_or(after);
        let ended = whole && !cut && has_ended(store, log, next_after).await?;
        let left = Duration::try_from(deadline.duration_since(clock.now())).unwrap_or_default();
        if !events.is_empty() || ended || left.is_zero() {
            if events.is_empty() && after > 0 && store.log_head(log).await? < after {
                return Err(beyond());
            }
            return Ok(LogPage { events, next_after, ended });
        }
        store.wait_for_append(log, after, left).await;
    }
}

/// The error for a place that the log has not reached.
pub(super) fn beyond() -> AppError {
    AppError::invalid("after", "lies beyond the last event; start from 0 or from an event that was delivered")
}

/// The head of `events` that fits into one answer, at least one, and whether any were left out.
fn within(mut events: Vec<Event>) -> (Vec<Event>, bool) {
    let mut bytes = 0;
    let fits = |event: &Event| {
        bytes += encoded(&event.data) + 128;
        bytes <= BYTES
    };
    let count = events.iter().map(fits).take_while(|fits| *fits).count().max(1);
    let cut = events.len() > count;
    events.truncate(count);
    (events, cut)
}

fn encoded(data: &Value) -> usize {
    serde_json::to_vec(data).map_or(0, |text| text.len())
}

#[cfg(test)]
mod tests {
    use pvm_domain::Timestamp;
    use pvm_domain::event::EventType;

    use super::*;

    #[test]
    fn a_page_is_cut_before_it_is_too_big_but_never_empty() {
        let event = |bytes: usize| Event {
            seq: Some(1),
            kind: EventType::ToolOutput,
            at: Timestamp::UNIX_EPOCH,
            agent_id: None,
            data: "x".repeat(bytes).into(),
        };
        let (kept, cut) = within(vec![event(BYTES), event(1)]);
        assert_eq!((kept.len(), cut), (1, true));
        let (kept, cut) = within(vec![event(1), event(1)]);
        assert_eq!((kept.len(), cut), (2, false));
    }
}
