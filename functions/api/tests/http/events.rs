//! Event logs: long polls, streams that are taken up again, tickets.

use std::time::{Duration, Instant};

use pvm_application::ports::Clock;
use pvm_application::store::{Tx, WriteStore};
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_entry::System;
use serde_json::json;

use crate::parts::{Blocks, House, house};

async fn tell(house: &House, project: &str, text: &str) {
    let log = LogId::Project(project.parse().unwrap());
    let event = NewEvent::new(EventType::ServiceState, System.now(), json!({"text": text}));
    house.app.store.commit(Tx::new().append(&log, event)).await.unwrap();
}

#[tokio::test]
async fn a_long_poll_answers_when_something_happens_or_its_time_is_over() {
    let house = house().await;
    let project = house.project().await;
    let events = format!("/api/projects/{project}/events");
    let empty = house.get(&events).await;
    assert_eq!(empty.body, json!({"events": [], "next_after": 0, "ended": false}));
    let asked = format!("{events}?wait=20");
    let waiting = house.get(&asked);
    let (page, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tell(&house, &project, "a").await;
    });
    assert_eq!(
        (page.body["events"][0]["seq"].as_u64(), page.body["next_after"].as_u64()),
        (Some(1), Some(1))
    );
    tell(&house, &project, "b").await;
    let next = house.get(&format!("{events}?after=1")).await;
    assert_eq!(next.body["events"][0]["data"]["text"], "b");
    assert_eq!(house.get(&format!("{events}?after=3")).await.field(), "after");
    assert_eq!(house.get(&format!("{events}?wait=21")).await.field(), "wait");
}

#[tokio::test]
async fn a_stream_brings_what_was_and_what_comes_at_once() {
    let house = house().await;
    let project = house.project().await;
    for text in ["a", "b"] {
        tell(&house, &project, text).await;
    }
    let events = format!("/api/projects/{project}/events");
    let stream = || house.ask("GET", &events).token(&house.ann).header("accept", "text/event-stream");
    let mut blocks = Blocks::of(stream().open().await);
    assert_eq!(blocks.next().await.unwrap(), "retry: 1000");
    assert!(blocks.next().await.unwrap().starts_with("id: 1\nevent: service.state\ndata: {\"seq\":1,"));
    assert!(blocks.next().await.unwrap().starts_with("id: 2\n"));
    let told = Instant::now();
    let (block, ()) = tokio::join!(blocks.next(), tell(&house, &project, "c"));
    assert!(block.unwrap().contains("\"text\":\"c\""));
    assert!(told.elapsed() < Duration::from_secs(2), "it does not wait for a poll");
    let mut again = Blocks::of(stream().header("last-event-id", "2").open().await);
    again.next().await;
    assert!(again.next().await.unwrap().starts_with("id: 3\n"));
    assert_eq!(stream().header("last-event-id", "x").send().await.field(), "Last-Event-ID");
}

#[tokio::test]
async fn a_ticket_opens_its_stream_and_nothing_else() {
    let house = house().await;
    let project = house.project().await;
    let made = house.post(&format!("/api/projects/{project}/stream-ticket"), &json!({})).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let (url, ticket) = (made.text("url"), made.text("ticket"));
    assert_eq!(house.ask("GET", &url).send().await.status, 200);
    let other = house.project().await;
    let elsewhere = format!("/api/projects/{other}/events?ticket={ticket}");
    assert_eq!(house.ask("GET", &elsewhere).send().await.status, 401);
    let status = format!("/api/projects/{project}/status?ticket={ticket}");
    assert_eq!(house.ask("GET", &status).send().await.status, 401);
    let body = json!({"path": format!("/api/projects/{other}/events")});
    assert_eq!(house.post(&format!("/api/projects/{project}/stream-ticket"), &body).await.field(), "path");
}
