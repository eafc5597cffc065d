//! One log, read as the client asks: an event stream where `Accept` names it, else JSON with a long poll.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::HeaderName;
use lambda_http::Request;
use pvm_application::error::{AppError, AppResult};
use pvm_application::events::{Follower, Frame, page};
use pvm_application::ports::Clock;
use pvm_application::store::ReadStore;
use pvm_contracts::events::EventPage;
use pvm_domain::event::{Event, LogId};
use pvm_domain::limits;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, reply, ticket};

use crate::sse;

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers with the events of `log`.
///
/// # Errors
/// `invalid` naming the parameter; of the store.
pub(super) async fn read<S, C>(store: &S, clock: &C, log: LogId, request: &Request) -> AppResult<Reply>
where
    S: ReadStore + Clone + 'static,
    C: Clock + Clone + 'static,
{
    let query = Query::of(request, &["after", "wait", ticket::PARAMETER])?;
    let after = query.number("after", 0..=u64::MAX)?;
    if request::wants_stream(request) {
        // A browser that lost its connection repeats the query and adds the header: the header is newer.
        let after = last_event_id(request)?.or(after).unwrap_or(0);
        let follower = Follower::new(store.clone(), clock.clone(), log, after).await?;
        return Ok(streamed(follower));
    }
    let wait = query.number("wait", 0..=limits::POLL_WAIT_SECS)?.unwrap_or(0);
    let found = page(store, clock, &log, after.unwrap_or(0), Duration::from_secs(wait)).await?;
    Ok(reply::ok(&EventPage { events: found.events, next_after: found.next_after, ended: found.ended }))
}

fn last_event_id(request: &Request) -> AppResult<Option<u64>> {
    let Some(text) = request::header(request, &LAST_EVENT_ID).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| AppError::invalid("Last-Event-ID", "must be the id of an event of this log"))
}

fn streamed<S, C>(follower: Follower<S, C>) -> Reply
where
    S: ReadStore + 'static,
    C: Clock + 'static,
{
    let head = stream::once(async { Ok(sse::retry()) });
    let frames = stream::unfold(follower, async |mut follower| match follower.next().await {
        Ok(Some(frame)) => Some((Ok(encoded(frame)), follower)),
        Ok(None) => None,
        Err(error) => {
            // The client comes back by itself and goes on from the last event that it got.
            tracing::warn!(code = error.code.as_str(), "an event stream ended early: {}", error.detail);
            None
        }
    });
    reply::stream(sse::MEDIA_TYPE, futures::StreamExt::chain(head, frames))
}

fn encoded(frame: Frame) -> Bytes {
    let block = |event: &Event| sse::event(event.seq, event.kind.as_str(), event);
    match frame {
        Frame::Event(event) | Frame::Delta(event) => block(&event),
        Frame::Heartbeat => sse::heartbeat(),
    }
}
