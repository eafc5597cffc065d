//! Map states.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pvm_asl::{ExecutionStatus, InvokeError};
use serde_json::{Value, json};

use crate::bed::{Bed, event_kinds, execution_arn, output, run_on, states, task, with};

/// A Map over `$.items` whose iterations call `f`.
fn map_of(item_states: Value, fields: Value) -> Value {
    let map = json!({
        "Type": "Map", "ItemsPath": "$.items", "ItemProcessor": states("I", item_states), "Next": "Done",
    });
    states("M", json!({ "M": with(map, fields), "Done": { "Type": "Succeed" } }))
}

fn call_f() -> Value {
    json!({ "I": with(task("f"), json!({ "End": true })) })
}

fn numbers(count: usize) -> Value {
    json!({ "items": (0..count).collect::<Vec<_>>() })
}

#[tokio::test]
async fn outputs_stand_in_the_order_of_the_items() {
    let bed = Bed::automatic().machine(map_of(call_f(), json!({ "MaxConcurrency": 3 })));
    let clock = bed.clock.clone();
    // The first takes longest.
    let bed = bed.async_function("f", move |payload| {
        let clock = clock.clone();
        Box::pin(async move {
            let n = payload.as_u64().unwrap();
            clock.elapse(std::time::Duration::from_secs(100 - n)).await;
            Ok(json!(n * 10))
        })
    });
    assert_eq!(output(&bed.run(numbers(5)).await), json!([0, 10, 20, 30, 40]));
}

#[tokio::test]
async fn no_more_iterations_run_at_once_than_allowed() {
    for (allowed, expected) in [(1, 1), (3, 3), (0, 40), (100, 40)] {
        let now = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let bed = Bed::automatic().machine(map_of(call_f(), json!({ "MaxConcurrency": allowed })));
        let (clock, seen) = (bed.clock.clone(), Arc::clone(&most));
        let bed = bed.async_function("f", move |_| {
            let (clock, now, most) = (clock.clone(), Arc::clone(&now), Arc::clone(&seen));
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                clock.elapse(std::time::Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(json!(null))
            })
        });
        assert_eq!(bed.run(numbers(60)).await.status, ExecutionStatus::Succeeded);
        assert_eq!(most.load(Ordering::SeqCst), expected, "MaxConcurrency {allowed}");
        if allowed == 1 {
            let order: Vec<_> =
                bed.functions.calls().iter().map(|call| call.payload.as_u64().unwrap()).collect();
            assert_eq!(order, (0..60).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn an_item_selector_makes_the_input_of_an_iteration() {
    let selector = json!({
        "shared.$": "$.shared", "item.$": "$$.Map.Item.Value", "index.$": "$$.Map.Item.Index", "fixed": true,
    });
    let definition = map_of(call_f(), json!({ "ItemSelector": selector, "ResultPath": "$.results" }));
    let bed = Bed::automatic().machine(definition).function("f", |payload| Ok(payload["index"].clone()));
    let input = json!({ "items": ["a", "b"], "shared": 9 });
    let execution = bed.run(input).await;
    assert_eq!(output(&execution), json!({ "items": ["a", "b"], "shared": 9, "results": [0, 1] }));
    let mut payloads: Vec<_> = bed.functions.calls().into_iter().map(|call| call.payload).collect();
    payloads.sort_by_key(|payload| payload["index"].as_u64());
    assert_eq!(payloads[1], json!({ "shared": 9, "item": "b", "index": 1, "fixed": true }));
}

#[tokio::test]
async fn the_item_is_known_inside_an_iteration() {
    let parameters = json!({ "FunctionName": "f", "Payload": { "i.$": "$$.Map.Item.Index", "v.$": "$$.Map.Item.Value.x" } });
    let item = json!({ "I": with(task("f"), json!({ "Parameters": parameters, "End": true })) });
    let bed = Bed::automatic().machine(map_of(item, json!({}))).function("f", Ok);
    let execution = bed.run(json!({ "items": [{ "x": "a" }, { "x": "b" }] })).await;
    assert_eq!(output(&execution), json!([{ "i": 0, "v": "a" }, { "i": 1, "v": "b" }]));
}

#[tokio::test]
async fn an_empty_list_gives_an_empty_list() {
    let bed = Bed::automatic().machine(map_of(call_f(), json!({})));
    let engine = bed.open().await;
    let execution = run_on(&engine, "empty", json!({ "items": [] })).await;
    assert_eq!(output(&execution), json!([]));
    let kinds = event_kinds(&engine, &execution_arn("empty")).await;
    assert_eq!(
        kinds,
        [
            "ExecutionStarted",
            "MapStateEntered",
            "MapStateStarted",
            "MapStateSucceeded",
            "MapStateExited",
            "SucceedStateEntered",
            "SucceedStateExited",
            "ExecutionSucceeded",
        ]
    );
}

#[tokio::test]
async fn one_failed_iteration_fails_the_map_and_ends_the_others() {
    let bed = Bed::automatic().machine(map_of(call_f(), json!({})));
    let clock = bed.clock.clone();
    let bed = bed.async_function("f", move |payload| {
        let clock = clock.clone();
        Box::pin(async move {
            if payload == json!(1) {
                clock.elapse(std::time::Duration::from_secs(1)).await;
                return Err(InvokeError::new("Boom", "x"));
            }
            clock.elapse(std::time::Duration::from_secs(1000)).await;
            Ok(json!(null))
        })
    });
    let engine = bed.open().await;
    let execution = run_on(&engine, "bad", numbers(3)).await;
    assert_eq!((execution.status, execution.error.as_deref()), (ExecutionStatus::Failed, Some("Boom")));
    assert_eq!(execution.stopped_at.unwrap().duration_since(execution.started_at).as_secs(), 1);
    let kinds = event_kinds(&engine, &execution_arn("bad")).await;
    assert_eq!(
        kinds[kinds.len() - 6..],
        [
            "TaskFailed",
            "MapIterationFailed",
            "MapIterationAborted",
            "MapIterationAborted",
            "MapStateFailed",
            "ExecutionFailed"
        ]
    );
}

#[tokio::test]
async fn a_map_is_caught_and_retried_as_a_whole() {
    let retry = json!([{ "ErrorEquals": ["Boom"], "IntervalSeconds": 10, "MaxAttempts": 2 }]);
    let catch = json!([{ "ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "Done" }]);
    let fields = json!({ "MaxConcurrency": 1, "Retry": retry, "Catch": catch });
    let failures = Arc::new(AtomicUsize::new(0));
    let bed = Bed::automatic().machine(map_of(call_f(), fields.clone())).function("f", move |payload| {
        if payload == json!(1) && failures.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(InvokeError::new("Boom", "x"));
        }
        Ok(payload)
    });
    assert_eq!(output(&bed.run(numbers(3)).await), json!([0, 1, 2]));
    let calls: Vec<_> = bed.functions.calls().iter().map(|call| call.payload.as_u64().unwrap()).collect();
    assert_eq!(calls, [0, 1, 0, 1, 2], "the second try begins anew");

    let bed = Bed::automatic()
        .machine(map_of(call_f(), fields))
        .function("f", |_| Err(InvokeError::new("Boom", "x")));
    assert_eq!(output(&bed.run(numbers(1)).await)["failure"]["Error"], "Boom");
    assert_eq!(bed.functions.times("f"), [0.0, 10.0, 30.0]);
}

#[tokio::test]
async fn an_iteration_retries_and_catches_for_itself() {
    let item = json!({
        "I": with(task("f"), json!({
            "Retry": [{ "ErrorEquals": ["Once"], "IntervalSeconds": 1 }],
            "Catch": [{ "ErrorEquals": ["States.ALL"], "ResultPath": "$.e", "Next": "Bad" }],
            "End": true,
        })),
        "Bad": { "Type": "Pass", "OutputPath": "$.e.Error", "End": true },
    });
    let once = Arc::new(AtomicUsize::new(0));
    let bed = Bed::automatic().machine(map_of(item, json!({}))).function("f", move |payload| {
        match payload["do"].as_str().unwrap() {
            "once" if once.fetch_add(1, Ordering::SeqCst) == 0 => Err(InvokeError::new("Once", "x")),
            "bad" => Err(InvokeError::new("Boom", "x")),
            other => Ok(json!(other)),
        }
    });
    let input = json!({ "items": [{ "do": "well" }, { "do": "once" }, { "do": "bad" }] });
    assert_eq!(output(&bed.run(input).await), json!(["well", "once", "Boom"]));
}

#[tokio::test]
async fn maps_nest() {
    let inner = json!({
        "Type": "Map",
        "ItemsPath": "$.inner",
        "ItemSelector": { "n.$": "$$.Map.Item.Value", "k.$": "$.k" },
        "ItemProcessor": states("Leaf", json!({ "Leaf": with(task("f"), json!({ "End": true })) })),
        "End": true,
    });
    let definition = map_of(json!({ "I": inner }), json!({ "MaxConcurrency": 2 }));
    let bed = Bed::automatic()
        .machine(definition)
        .function("f", |payload| Ok(json!(payload["n"].as_i64().unwrap() * payload["k"].as_i64().unwrap())));
    let input = json!({ "items": [{ "k": 1, "inner": [1, 2] }, { "k": 10, "inner": [] }, { "k": 100, "inner": [3] }] });
    assert_eq!(output(&bed.run(input).await), json!([[1, 2], [], [300]]));
}

#[tokio::test]
async fn a_result_that_is_too_large_together_fails_the_map() {
    let bed = Bed::automatic()
        .machine(map_of(call_f(), json!({ "ResultPath": null })))
        .function("f", |_| Ok(json!("x".repeat(100_000))));
    let execution = bed.run(numbers(3)).await;
    assert_eq!(execution.error.as_deref(), Some("States.DataLimitExceeded"));
}
