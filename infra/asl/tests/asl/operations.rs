//! The operations, called directly.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use pvm_asl::{ApiError, ExecutionStatus, HistoryQuery, ListFilter};
use serde_json::json;

use crate::bed::{Bed, event_kinds, execution_arn, machine_arn, output, run_on, start, states, task, with};

fn waiting() -> Bed {
    Bed::manual().machine(states("W", json!({ "W": { "Type": "Wait", "Seconds": 100, "End": true } })))
}

#[tokio::test]
async fn a_repeated_start_is_the_same_execution_while_it_runs() {
    let bed = waiting();
    let engine = bed.open().await;
    let arn = machine_arn();
    let first = engine.start_execution(&arn, Some("e"), r#"{"a": 1, "b": 2}"#).await.unwrap();
    bed.clock.advance(Duration::from_secs(1));
    let again = engine.start_execution(&arn, Some("e"), r#"{"b":2,"a":1}"#).await.unwrap();
    assert_eq!(first, again);
    let other = engine.start_execution(&arn, Some("e"), r#"{"a": 2}"#).await;
    assert!(matches!(other, Err(ApiError::ExecutionAlreadyExists(_))));
    bed.clock.settle().await;
    bed.clock.advance(Duration::from_secs(100));
    engine.wait_for_end(&first.arn).await.unwrap();
    let ended = engine.start_execution(&arn, Some("e"), r#"{"a": 1, "b": 2}"#).await;
    assert!(matches!(ended, Err(ApiError::ExecutionAlreadyExists(_))), "a name is not used twice");
}

#[tokio::test]
async fn bad_starts_are_refused() {
    let bed = waiting();
    let engine = bed.open().await;
    let arn = machine_arn();
    for name in ["", "a b", "a/b", "a:b", "a*", "a\n", &"x".repeat(81)] {
        let refused = engine.start_execution(&arn, Some(name), "{}").await;
        assert!(matches!(refused, Err(ApiError::InvalidName(_))), "{name:?}");
    }
    for arn in ["", "machine", "arn:aws:states:us-east-1:000000000000:execution:machine:e", "arn:aws:s3:::x"]
    {
        let refused = engine.start_execution(arn, None, "{}").await;
        assert!(matches!(refused, Err(ApiError::InvalidArn(_))), "{arn:?}");
    }
    for arn in [
        "arn:aws:states:us-east-1:000000000000:stateMachine:other",
        "arn:aws:states:eu-west-1:000000000000:stateMachine:machine",
        "arn:aws:states:us-east-1:111111111111:stateMachine:machine",
    ] {
        let refused = engine.start_execution(arn, None, "{}").await;
        assert!(matches!(refused, Err(ApiError::StateMachineDoesNotExist(_))), "{arn:?}");
    }
    assert!(matches!(engine.start_execution(&arn, None, "{").await, Err(ApiError::InvalidExecutionInput(_))));
    let large = format!("\"{}\"", "x".repeat(262_143));
    assert!(matches!(engine.start_execution(&arn, None, &large).await, Err(ApiError::Validation(_))));
    assert!(matches!(
        engine.describe_execution(&execution_arn("none")).await,
        Err(ApiError::ExecutionDoesNotExist(_))
    ));
    assert!(matches!(engine.describe_execution(&arn).await, Err(ApiError::InvalidArn(_))));
}

#[tokio::test]
async fn stopping_ends_an_execution_at_once_and_for_good() {
    let bed = waiting();
    let engine = bed.open().await;
    let arn = start(&engine, "e", json!({})).await;
    bed.clock.settle().await;
    let stopped =
        engine.stop_execution(&arn, Some("Cancelled".into()), Some("by a person".into())).await.unwrap();
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(execution.status, ExecutionStatus::Aborted);
    assert_eq!(
        (execution.error.as_deref(), execution.cause.as_deref()),
        (Some("Cancelled"), Some("by a person"))
    );
    assert_eq!(execution.stopped_at, Some(stopped));
    assert_eq!(engine.running(), 0);
    bed.clock.advance(Duration::from_secs(1000));
    assert_eq!(engine.stop_execution(&arn, None, None).await.unwrap(), stopped, "once more changes nothing");
    assert_eq!(
        event_kinds(&engine, &arn).await,
        ["ExecutionStarted", "WaitStateEntered", "ExecutionAborted"]
    );
    engine.shutdown().await;
    let engine = bed.open().await;
    assert_eq!(engine.running(), 0, "a stopped execution does not come back");
}

#[tokio::test]
async fn a_function_in_flight_at_a_stop_cannot_bring_the_execution_back() {
    let bed = Bed::automatic().machine(states(
        "T",
        json!({ "T": with(task("f"), json!({ "Next": "U" })),
        "U": with(task("g"), json!({ "End": true })) }),
    ));
    let (begun, gate) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (begins, waits) = (Arc::clone(&begun), Arc::clone(&gate));
    let bed = bed.async_function("f", move |_| {
        let (begins, waits) = (Arc::clone(&begins), Arc::clone(&waits));
        async move {
            begins.notify_one();
            waits.notified().await;
            Ok(json!(1))
        }
        .boxed()
    });
    let engine = bed.open().await;
    let arn = start(&engine, "e", json!({})).await;
    begun.notified().await;
    engine.stop_execution(&arn, None, None).await.unwrap();
    gate.notify_one();
    bed.clock.settle().await;
    assert_eq!(engine.describe_execution(&arn).await.unwrap().status, ExecutionStatus::Aborted);
    assert_eq!(bed.functions.times("g").len(), 0);
}

#[tokio::test]
async fn executions_are_listed_newest_first_in_pages() {
    let bed = waiting();
    let engine = bed.open().await;
    for number in 0..5 {
        start(&engine, &format!("e{number}"), json!({})).await;
        bed.clock.advance(Duration::from_secs(1));
    }
    engine.stop_execution(&execution_arn("e3"), None, None).await.unwrap();
    let names = |filter: ListFilter| {
        let engine = engine.clone();
        async move {
            let page = engine.list_executions(&machine_arn(), filter).await.unwrap();
            (page.items.into_iter().map(|item| item.name).collect::<Vec<_>>(), page.next_token)
        }
    };
    let (first, token) = names(ListFilter { limit: Some(2), ..ListFilter::default() }).await;
    assert_eq!(first, ["e4", "e3"]);
    let (second, token) =
        names(ListFilter { limit: Some(2), next_token: token, ..ListFilter::default() }).await;
    assert_eq!(second, ["e2", "e1"]);
    let (last, token) =
        names(ListFilter { limit: Some(2), next_token: token, ..ListFilter::default() }).await;
    assert_eq!((last, token), (vec!["e0".to_owned()], None));
    let aborted = ListFilter { status: Some(ExecutionStatus::Aborted), ..ListFilter::default() };
    assert_eq!(names(aborted).await.0, ["e3"]);
    for filter in [
        ListFilter { limit: Some(1001), ..ListFilter::default() },
        ListFilter { next_token: Some("nonsense".into()), ..ListFilter::default() },
    ] {
        let refused = engine.list_executions(&machine_arn(), filter).await;
        assert!(matches!(refused, Err(ApiError::Validation(_))));
    }
}

#[tokio::test]
async fn the_history_tells_what_happened_in_order() {
    let definition = states(
        "T",
        json!({
            "T": with(task("f"), json!({ "TimeoutSeconds": 5, "Next": "M" })),
            "M": {
                "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 1, "End": true,
                "ItemProcessor": states("I", json!({ "I": { "Type": "Pass", "End": true } })),
            },
        }),
    );
    let bed = Bed::automatic().machine(definition).function("f", |_| Ok(json!({ "items": [1, 2] })));
    let engine = bed.open().await;
    run_on(&engine, "e", json!({ "in": 1 })).await;
    let arn = execution_arn("e");
    let expected = [
        "ExecutionStarted",
        "TaskStateEntered",
        "TaskScheduled",
        "TaskStarted",
        "TaskSucceeded",
        "TaskStateExited",
        "MapStateEntered",
        "MapStateStarted",
        "MapIterationStarted",
        "PassStateEntered",
        "PassStateExited",
        "MapIterationSucceeded",
        "MapIterationStarted",
        "PassStateEntered",
        "PassStateExited",
        "MapIterationSucceeded",
        "MapStateSucceeded",
        "MapStateExited",
        "ExecutionSucceeded",
    ];
    assert_eq!(event_kinds(&engine, &arn).await, expected);
    let mut token = None;
    let mut backwards = Vec::new();
    loop {
        let query = HistoryQuery { newest_first: true, limit: Some(7), next_token: token };
        let page = engine.execution_history(&arn, query).await.unwrap();
        backwards.extend(page.items);
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    backwards.reverse();
    assert_eq!(backwards.len(), expected.len());
    for (index, event) in backwards.iter().enumerate() {
        assert_eq!(event.id, index as i64 + 1);
        assert!(event.previous_id < event.id, "{event:?}");
    }
    assert_eq!(backwards[1].details["stateEnteredEventDetails"]["name"], "T");
    assert_eq!(backwards[1].details["stateEnteredEventDetails"]["input"], r#"{"in":1}"#);
    assert_eq!(backwards[2].details["taskScheduledEventDetails"]["timeoutInSeconds"], 5);
    assert_eq!(backwards[8].previous_id, 8);
    assert_eq!(backwards[12].previous_id, 8, "each iteration follows the Map's start");
}

#[tokio::test]
async fn every_end_is_told_with_its_status() {
    let definition = states(
        "C",
        json!({
            "C": {
                "Type": "Choice",
                "Choices": [{ "Variable": "$.end", "StringEquals": "well", "Next": "Good" },
                            { "Variable": "$.end", "StringEquals": "badly", "Next": "Bad" }],
                "Default": "Long",
            },
            "Good": { "Type": "Succeed" },
            "Bad": { "Type": "Fail", "Error": "E" },
            "Long": { "Type": "Wait", "Seconds": 1000, "End": true },
        }),
    );
    let bed = Bed::manual().machine(with(definition, json!({ "TimeoutSeconds": 500 })));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    let engine = bed
        .builder()
        .on_end(move |execution| {
            noted.lock().unwrap().push(format!("{} {}", execution.name, execution.status.as_str()));
            std::future::ready(()).boxed()
        })
        .open()
        .await
        .unwrap();
    assert_eq!(output(&run_on(&engine, "a", json!({ "end": "well" })).await), json!({ "end": "well" }));
    run_on(&engine, "b", json!({ "end": "badly" })).await;
    let stopped = start(&engine, "c", json!({ "end": "never" })).await;
    start(&engine, "d", json!({ "end": "never" })).await;
    bed.clock.settle().await;
    engine.stop_execution(&stopped, None, None).await.unwrap();
    bed.clock.advance(Duration::from_secs(500));
    bed.clock.settle().await;
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(heard, ["a SUCCEEDED", "b FAILED", "c ABORTED", "d TIMED_OUT"]);
}

#[tokio::test]
async fn thousands_of_executions_wait_side_by_side() {
    let definition = states(
        "T",
        json!({
            "T": with(task("f"), json!({ "Next": "W" })),
            "W": { "Type": "Wait", "Seconds": 100, "Next": "U" },
            "U": with(task("f"), json!({ "End": true })),
        }),
    );
    let bed = Bed::manual().machine(definition).function("f", Ok);
    let engine = bed.open().await;
    let starts = (0..3000).map(|number| {
        let engine = engine.clone();
        async move { start(&engine, &format!("e{number}"), json!({ "n": number })).await }
    });
    let arns = futures::future::join_all(starts).await;
    bed.clock.settle().await;
    assert_eq!(engine.running(), 3000);
    bed.clock.advance(Duration::from_secs(100));
    for (number, arn) in arns.iter().enumerate().step_by(100) {
        assert_eq!(output(&engine.wait_for_end(arn).await.unwrap()), json!({ "n": number }));
    }
    bed.clock.settle().await;
    assert_eq!(engine.running(), 0);
    assert_eq!(bed.functions.calls().len(), 6000);
}

/// Between the moment when a start is stored and the one when it is driven there is an execution that nobody runs yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_is_just_being_started_is_waited_for() {
    let bed = Bed::manual().machine(states("P", json!({ "P": { "Type": "Pass", "End": true } })));
    let engine = Arc::new(bed.open().await);
    for number in 0..300 {
        let (name, starter) = (format!("e{number}"), Arc::clone(&engine));
        let arn = execution_arn(&name);
        let started = tokio::spawn(async move {
            starter.start_execution(&machine_arn(), Some(&name), "{}").await.unwrap();
        });
        let ended = loop {
            match engine.wait_for_end(&arn).await {
                Err(ApiError::ExecutionDoesNotExist(_)) => tokio::task::yield_now().await,
                other => break other,
            }
        };
        assert_eq!(ended.unwrap().status, ExecutionStatus::Succeeded, "{arn}");
        started.await.unwrap();
    }
}
