//! What survives when the process ends at any moment.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use pvm_asl::{CrashPoint, Engine, ExecutionStatus, InvokeError, OpenError, StoreError};
use serde_json::{Value, json};

use crate::bed::{Bed, MACHINE, output, run_on, seconds_since_start, start, states, task, with};

/// A machine with everything in it: tasks, a retry, a wait, a Map with an inner loop and a failing
/// iteration that is caught, a token.
fn everything() -> Value {
    let loop_states = json!({
        "Begin": with(task("step"), json!({ "Next": "More" })),
        "More": {
            "Type": "Choice",
            "Choices": [{ "Variable": "$.left", "NumericGreaterThan": 0, "Next": "Pause" }],
            "Default": "Enough",
        },
        "Pause": { "Type": "Wait", "Seconds": 4, "Next": "Begin" },
        "Enough": { "Type": "Succeed", "OutputPath": "$.name" },
    });
    let risky = json!({
        "Risky": with(task("risky"), json!({
            "Catch": [{ "ErrorEquals": ["Boom"], "ResultPath": null, "Next": "Saved" }], "End": true,
        })),
        "Saved": { "Type": "Pass", "Result": "saved", "End": true },
    });
    states(
        "First",
        json!({
            "First": with(task("first"), json!({
                "Retry": [{ "ErrorEquals": ["Transient"], "IntervalSeconds": 7, "MaxAttempts": 2 }],
                "Next": "Loops",
            })),
            "Loops": {
                "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 2, "ResultPath": "$.loops",
                "ItemProcessor": states("Begin", loop_states), "Next": "Rest",
            },
            "Rest": { "Type": "Wait", "Seconds": 60, "Next": "Risks" },
            "Risks": {
                "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 1, "ResultPath": "$.risks",
                "ItemProcessor": states("Risky", risky), "Next": "Ask",
            },
            "Ask": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
                "Parameters": { "FunctionName": "ask", "Payload": { "token.$": "$$.Task.Token" } },
                "ResultPath": "$.answer",
                "Next": "Done",
            },
            "Done": { "Type": "Succeed" },
        }),
    )
}

fn bed() -> (Bed, Arc<Mutex<Option<Engine>>>) {
    let engine: Arc<Mutex<Option<Engine>>> = Arc::default();
    let asked = Arc::clone(&engine);
    let failures = Arc::new(AtomicUsize::new(0));
    let bed = Bed::automatic()
        .machine(everything())
        .function("first", move |payload| {
            if failures.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(InvokeError::new("Transient", "the first call fails"));
            }
            Ok(payload)
        })
        .function("step", |payload| {
            let left = payload["left"].as_i64().unwrap();
            Ok(json!({ "name": payload["name"], "left": left - 1 }))
        })
        .function("risky", |payload| match payload["name"].as_str() {
            Some("b") => Err(InvokeError::new("Boom", "b is bad")),
            _ => Ok(payload["name"].clone()),
        })
        // Whoever is asked answers at once, through the engine of the moment.
        .async_function("ask", move |payload| {
            let engine = asked.lock().unwrap().clone();
            async move {
                let token = payload["token"].as_str().unwrap().to_owned();
                if let Some(engine) = engine {
                    drop(engine.send_task_success(&token, "\"yes\"").await);
                }
                Ok(json!(null))
            }
            .boxed()
        });
    (bed, engine)
}

fn input() -> Value {
    json!({ "items": [{ "name": "a", "left": 2 }, { "name": "b", "left": 1 }, { "name": "c", "left": 3 }] })
}

fn expected() -> Value {
    let mut expected = input();
    expected["loops"] = json!(["a", "b", "c"]);
    expected["risks"] = json!(["a", "saved", "c"]);
    expected["answer"] = json!("yes");
    expected
}

/// The functions called with what, without how often.
fn distinct_calls(bed: &Bed) -> BTreeSet<String> {
    bed.functions
        .calls()
        .into_iter()
        .map(|call| {
            // Tokens differ from run to run.
            let payload = if call.function == "ask" { Value::Null } else { call.payload };
            format!("{} {payload}", call.function)
        })
        .collect()
}

/// Opens an engine on the bed, and makes it the one that tokens are answered through.
async fn open_as(
    bed: &Bed,
    slot: &Mutex<Option<Engine>>,
    crash: Option<CrashPoint>,
) -> Result<Engine, OpenError> {
    let builder = match crash {
        Some(crash) => bed.builder().crash_point(crash),
        None => bed.builder(),
    };
    let engine = builder.open().await?;
    *slot.lock().unwrap() = Some(engine.clone());
    Ok(engine)
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    // Without a crash.
    let (calm, slot) = bed();
    let engine = open_as(&calm, &slot, None).await.unwrap();
    let execution = run_on(&engine, "e", input()).await;
    assert_eq!(output(&execution), expected());
    let (calls, count) = (distinct_calls(&calm), calm.functions.calls().len());
    engine.shutdown().await;

    let mut crashes = 0;
    for write in 1.. {
        let mut done = false;
        for after_commit in [false, true] {
            let (bed, slot) = bed();
            let crashed = open_as(&bed, &slot, Some(CrashPoint { write, after_commit })).await;
            let started = match &crashed {
                Ok(engine) => {
                    engine.start_execution(&crate::bed::machine_arn(), Some("e"), &input().to_string()).await
                }
                Err(OpenError::Store(StoreError::Stopped)) => Err(StoreError::Stopped.into()),
                Err(error) => panic!("{error}"),
            };
            if let (Ok(engine), Ok(started)) = (&crashed, &started) {
                done = engine.wait_for_end(&started.arn).await.is_ok();
            }
            if let Ok(engine) = &crashed {
                if done {
                    engine.shutdown().await;
                } else {
                    engine.stopped().await;
                    crashes += 1;
                }
            }
            drop(crashed);
            let engine = open_as(&bed, &slot, None).await.unwrap();
            // The caller who got no answer tries again with the same name.
            if started.is_err() {
                // It may have ended by now, time being simulated.
                drop(
                    engine.start_execution(&crate::bed::machine_arn(), Some("e"), &input().to_string()).await,
                );
            }
            let execution = engine.wait_for_end(&crate::bed::execution_arn("e")).await.unwrap();
            let place = format!("write {write}, after its commit: {after_commit}");
            assert_eq!(execution.status, ExecutionStatus::Succeeded, "{place}: {execution:?}");
            assert_eq!(output(&execution), expected(), "{place}");
            assert_eq!(distinct_calls(&bed), calls, "{place}");
            // At most what was going on at the crash is done twice: two iterations at a time.
            let repeated = bed.functions.calls().len() - count;
            assert!(repeated <= 2, "{place}: {repeated} calls were repeated");
            engine.shutdown().await;
        }
        if done {
            break;
        }
    }
    assert!(crashes > 40, "the machine writes more than 20 times; {crashes} crashes were tried");
}

#[tokio::test]
async fn a_task_in_flight_is_called_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let bed = Bed::manual()
        .machine(states("T", json!({ "T": with(task("f"), json!({ "TimeoutSeconds": 50, "End": true })) })))
        .async_function("f", move |_| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            async move { if call == 0 { std::future::pending().await } else { Ok(json!("second")) } }.boxed()
        });
    let engine = bed.open().await;
    let arn = start(&engine, "e", json!({})).await;
    while calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    engine.shutdown().await;
    // Longer away than the task may last: the new call has its own time.
    bed.clock.advance(Duration::from_secs(500));
    let engine = bed.open().await;
    assert_eq!(output(&engine.wait_for_end(&arn).await.unwrap()), json!("second"));
}

#[tokio::test]
async fn a_wait_ends_when_it_was_to_end() {
    let bed =
        Bed::manual().machine(states("W", json!({ "W": { "Type": "Wait", "Seconds": 100, "End": true } })));
    let engine = bed.open().await;
    let arn = start(&engine, "e", json!({})).await;
    bed.clock.settle().await;
    bed.clock.advance(Duration::from_mins(1));
    engine.shutdown().await;
    bed.clock.advance(Duration::from_secs(30));
    let engine = bed.open().await;
    bed.clock.settle().await;
    assert!(bed.clock.advance_to_next());
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(seconds_since_start(execution.stopped_at.unwrap()), 100.0);
}

#[tokio::test]
async fn retries_that_were_made_count_after_a_restart() {
    let retry = json!([{ "ErrorEquals": ["A"], "IntervalSeconds": 10, "BackoffRate": 2, "MaxAttempts": 3 }]);
    let bed = Bed::manual()
        .machine(states("T", json!({ "T": with(task("f"), json!({ "Retry": retry, "End": true })) })))
        .function("f", |_| Err(InvokeError::new("A", "x")));
    let mut engine = bed.open().await;
    let arn = start(&engine, "e", json!({})).await;
    for _ in 0..3 {
        bed.clock.settle().await;
        engine.shutdown().await;
        engine = bed.open().await;
        bed.clock.settle().await;
        assert!(bed.clock.advance_to_next());
    }
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(execution.error.as_deref(), Some("A"));
    assert_eq!(bed.functions.times("f"), [0.0, 10.0, 30.0, 70.0]);
}

#[tokio::test]
async fn the_machines_timeout_runs_on_while_the_process_is_away() {
    let wait = states("W", json!({ "W": { "Type": "Wait", "Seconds": 1000, "End": true } }));
    let bed = Bed::manual().machine(with(wait, json!({ "TimeoutSeconds": 100 })));
    let engine = bed.open().await;
    let arn = start(&engine, "e", json!({})).await;
    bed.clock.settle().await;
    engine.shutdown().await;
    bed.clock.advance(Duration::from_secs(200));
    let engine = bed.open().await;
    assert_eq!(engine.wait_for_end(&arn).await.unwrap().status, ExecutionStatus::TimedOut);
}

#[tokio::test]
async fn an_execution_goes_on_with_the_definition_it_began_with() {
    let version = |word: &str| {
        let end = json!({ "Type": "Pass", "Result": word, "End": true });
        states("W", json!({ "W": { "Type": "Wait", "Seconds": 10, "Next": "P" }, "P": end }))
    };
    let mut bed = Bed::manual().machine(version("old"));
    let engine = bed.open().await;
    let old = start(&engine, "old", json!({})).await;
    bed.clock.settle().await;
    engine.shutdown().await;

    bed.set_machine(&version("new"));
    let engine = bed.open().await;
    let new = start(&engine, "new", json!({})).await;
    bed.clock.settle().await;
    bed.clock.advance(Duration::from_secs(10));
    assert_eq!(output(&engine.wait_for_end(&old).await.unwrap()), json!("old"));
    assert_eq!(output(&engine.wait_for_end(&new).await.unwrap()), json!("new"));
}

#[tokio::test]
async fn an_end_that_nobody_heard_of_is_told_after_the_restart() {
    let bed = Bed::manual().machine(states("F", json!({ "F": { "Type": "Fail", "Error": "X" } })));
    let begun = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&begun);
    let engine = bed
        .builder()
        .on_end(move |_| {
            told.notify_one();
            // The process ends while the listener is at it.
            std::future::pending().boxed()
        })
        .open()
        .await
        .unwrap();
    start(&engine, "e", json!({})).await;
    begun.notified().await;
    engine.shutdown().await;

    for expected in [1, 0] {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heard);
        let engine = bed
            .builder()
            .on_end(move |execution| {
                noted.lock().unwrap().push((execution.name, execution.status, execution.error));
                std::future::ready(()).boxed()
            })
            .open()
            .await
            .unwrap();
        bed.clock.settle().await;
        let heard = heard.lock().unwrap().clone();
        assert_eq!(heard.len(), expected, "told once more, and then no more");
        if let Some((name, status, error)) = heard.first() {
            assert_eq!((name.as_str(), *status, error.as_deref()), ("e", ExecutionStatus::Failed, Some("X")));
        }
        engine.shutdown().await;
    }
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let bed = Bed::manual().machine(states("S", json!({ "S": { "Type": "Succeed" } })));
    let engine = bed.open().await;
    assert!(matches!(bed.builder().open().await, Err(OpenError::Store(StoreError::InUse(_)))));
    engine.shutdown().await;
    assert!(bed.builder().open().await.is_ok());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_a_clear_error() {
    let bed = Bed::manual();
    let path = bed.store_path().join("missing").join("store.sqlite");
    let error = pvm_asl::EngineBuilder::new(path, bed.functions.clone()).open().await.unwrap_err();
    assert!(error.to_string().contains("cannot be opened"), "{error}");
}

#[tokio::test]
async fn old_executions_are_forgotten() {
    let bed = Bed::manual().machine(states("S", json!({ "S": { "Type": "Succeed" } })));
    let engine = bed.open().await;
    for name in ["a", "b", "c"] {
        run_on(&engine, name, json!({})).await;
    }
    bed.clock.advance(Duration::from_hours(1));
    run_on(&engine, "late", json!({})).await;
    let before = pvm_asl::Clock::now(&bed.clock) - jiff::SignedDuration::from_mins(10);
    assert_eq!(engine.purge_ended_before(before).await.unwrap(), 3);
    assert!(engine.describe_execution(&crate::bed::execution_arn("a")).await.is_err());
    assert!(engine.describe_execution(&crate::bed::execution_arn("late")).await.is_ok());
    run_on(&engine, "a", json!({})).await;
    engine.shutdown().await;

    bed.clock.advance(Duration::from_hours(91 * 24));
    let engine = bed.open().await;
    let page =
        engine.list_executions(&crate::bed::machine_arn(), pvm_asl::ListFilter::default()).await.unwrap();
    assert!(page.items.is_empty(), "after 90 days {MACHINE} has forgotten: {page:?}");
}
