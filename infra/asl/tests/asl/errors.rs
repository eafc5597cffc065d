//! Errors: which there are, which are retried and when, which are caught.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pvm_asl::{Backoff, ExecutionStatus, InvokeError, Jitter};
use serde_json::{Value, json};

use crate::bed::{Bed, event_kinds, execution_arn, output, run_on, states, task, with};

fn error(name: &str) -> Result<Value, InvokeError> {
    Err(InvokeError::new(name, "it broke"))
}

/// A Task `T` with these fields that ends in `Caught` where a Catch says so.
fn guarded(fields: Value) -> Value {
    let mut all = json!({ "T": with(with(task("f"), json!({ "End": true })), fields.clone()) });
    if fields.get("Catch").is_some() {
        all["Caught"] = json!({ "Type": "Succeed" });
    }
    states("T", all)
}

fn catch_all() -> Value {
    json!([{ "ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "Caught" }])
}

/// A function that fails with these errors one after the other and then succeeds.
fn failing_with(bed: Bed, names: &'static [&'static str]) -> Bed {
    let calls = Arc::new(AtomicUsize::new(0));
    bed.function("f", move |_| match names.get(calls.fetch_add(1, Ordering::SeqCst)) {
        Some(name) => error(name),
        None => Ok(json!("done")),
    })
}

#[tokio::test]
async fn a_functions_error_keeps_its_name_and_message() {
    let execution = Bed::automatic()
        .machine(guarded(json!({})))
        .function("f", |_| error("Terminal"))
        .run(json!({}))
        .await;
    assert_eq!(execution.status, ExecutionStatus::Failed);
    assert_eq!(execution.error.as_deref(), Some("Terminal"));
    let cause: Value = serde_json::from_str(&execution.cause.unwrap()).unwrap();
    assert_eq!(cause, json!({ "errorType": "Terminal", "errorMessage": "it broke" }));
}

#[tokio::test]
async fn a_caught_error_goes_where_result_path_says() {
    let cause = json!({ "errorType": "Boom", "errorMessage": "it broke" }).to_string();
    let failure = json!({ "Error": "Boom", "Cause": cause });
    let cases = [
        (json!("$.failure"), json!({ "a": 1, "failure": failure })),
        (json!("$"), failure.clone()),
        (Value::Null, json!({ "a": 1 })),
    ];
    for (result_path, expected) in cases {
        let catch = json!([{ "ErrorEquals": ["Boom"], "ResultPath": result_path, "Next": "Caught" }]);
        let bed =
            Bed::automatic().machine(guarded(json!({ "Catch": catch }))).function("f", |_| error("Boom"));
        assert_eq!(output(&bed.run(json!({ "a": 1 })).await), expected);
    }
}

#[tokio::test]
async fn retries_back_off_and_then_the_error_is_caught() {
    let retry = json!([{
        "ErrorEquals": ["Transient"], "IntervalSeconds": 2, "MaxAttempts": 4, "BackoffRate": 3, "MaxDelaySeconds": 40,
    }]);
    let bed = Bed::automatic()
        .machine(guarded(json!({ "Retry": retry, "Catch": catch_all() })))
        .function("f", |_| error("Transient"));
    let execution = bed.run(json!({})).await;
    // 2, 6, 18 and then not 54 but 40 seconds.
    assert_eq!(bed.functions.times("f"), [0.0, 2.0, 8.0, 26.0, 66.0]);
    assert_eq!(output(&execution)["failure"]["Error"], "Transient");
    assert_eq!(execution.transitions, 6, "T, four retries, Caught");
}

#[tokio::test]
async fn the_defaults_of_a_retrier_are_those_of_aws() {
    let bed = Bed::automatic()
        .machine(guarded(json!({ "Retry": [{ "ErrorEquals": ["States.ALL"] }] })))
        .function("f", |_| error("Any"));
    assert_eq!(bed.run(json!({})).await.status, ExecutionStatus::Failed);
    assert_eq!(bed.functions.times("f"), [0.0, 1.0, 3.0, 7.0]);
}

#[tokio::test]
async fn each_retrier_counts_for_itself() {
    let retry = json!([
        { "ErrorEquals": ["A", "B"], "IntervalSeconds": 1, "BackoffRate": 2, "MaxAttempts": 2 },
        { "ErrorEquals": ["C"], "IntervalSeconds": 5 },
    ]);
    let machine = guarded(json!({ "Retry": retry, "Catch": catch_all() }));
    let bed = failing_with(Bed::automatic().machine(machine), &["A", "B", "C", "B"]);
    let execution = bed.run(json!({})).await;
    assert_eq!(bed.functions.times("f"), [0.0, 1.0, 3.0, 8.0]);
    assert_eq!(output(&execution)["failure"]["Error"], "B", "the first retrier was used up");
}

#[tokio::test]
async fn max_attempts_zero_means_never() {
    let retry = json!([{ "ErrorEquals": ["A"], "MaxAttempts": 0 }, { "ErrorEquals": ["States.ALL"] }]);
    let bed = failing_with(Bed::automatic().machine(guarded(json!({ "Retry": retry }))), &["A"]);
    assert_eq!(bed.run(json!({})).await.error.as_deref(), Some("A"));
    assert_eq!(bed.functions.times("f").len(), 1);
}

#[tokio::test]
async fn the_retry_count_is_in_the_context_and_starts_anew_with_each_visit() {
    let retry = json!([{ "ErrorEquals": ["A"], "MaxAttempts": 1 }]);
    let parameters = json!({ "FunctionName": "f", "Payload": { "n.$": "$$.State.RetryCount" } });
    let definition = states(
        "T",
        json!({
            "T": with(task("f"), json!({ "Parameters": parameters, "Retry": retry, "Next": "Again" })),
            "Again": {
                "Type": "Choice",
                "Choices": [{ "Variable": "$.again", "BooleanEquals": true, "Next": "T" }],
                "Default": "Done",
            },
            "Done": { "Type": "Succeed" },
        }),
    );
    let calls = Arc::new(AtomicUsize::new(0));
    let bed = Bed::automatic().machine(definition).function("f", move |_| {
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 | 2 => error("A"),
            call => Ok(json!({ "again": call == 1 })),
        }
    });
    assert_eq!(bed.run(json!({})).await.status, ExecutionStatus::Succeeded);
    let counts: Vec<_> = bed.functions.calls().iter().map(|call| call.payload["n"].clone()).collect();
    assert_eq!(counts, [json!(0), json!(1), json!(0), json!(1)]);
}

#[test]
fn backoff_is_arithmetic() {
    let backoff = |interval, rate, max, jitter| Backoff {
        interval_seconds: interval,
        max_attempts: 9,
        backoff_rate: rate,
        max_delay_seconds: max,
        jitter,
    };
    let plain = backoff(3, 1.5, None, Jitter::None);
    let delays: Vec<u128> = (0..4).map(|retry| plain.delay(retry, 0.1).as_millis()).collect();
    assert_eq!(delays, [3_000, 4_500, 6_750, 10_125]);
    let full = backoff(10, 2.0, Some(15), Jitter::Full);
    assert_eq!(full.delay(0, 0.0).as_millis(), 0);
    assert_eq!(full.delay(0, 0.25).as_millis(), 2_500);
    assert_eq!(full.delay(5, 0.5).as_millis(), 7_500);
    assert_eq!(backoff(10, 2.0, None, Jitter::None).delay(u64::MAX, 0.0).as_secs(), 31_622_400);
}

#[tokio::test]
async fn jitter_stays_in_bounds_and_repeats_with_its_seed() {
    let retry = json!([{
        "ErrorEquals": ["A"], "IntervalSeconds": 10, "BackoffRate": 1, "MaxAttempts": 30, "JitterStrategy": "FULL",
    }]);
    let run = || async {
        let bed = Bed::automatic().machine(guarded(json!({ "Retry": retry }))).function("f", |_| error("A"));
        bed.run(json!({})).await;
        bed.functions.times("f")
    };
    let times = run().await;
    let delays: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(delays.len(), 30);
    assert!(delays.iter().all(|delay| (0.0..=10.0).contains(delay)), "{delays:?}");
    let mean = delays.iter().sum::<f64>() / 30.0;
    assert!((2.5..7.5).contains(&mean), "spread over the whole interval: {delays:?}");
    assert_eq!(times, run().await);
}

#[tokio::test]
async fn a_task_that_is_too_slow_times_out() {
    let machine = guarded(json!({ "TimeoutSeconds": 30, "Catch": catch_all() }));
    let bed = Bed::automatic().machine(machine).slow_function("f", 31, |_| Ok(json!(1)));
    let execution = bed.run(json!({})).await;
    assert_eq!(output(&execution)["failure"], json!({ "Error": "States.Timeout", "Cause": "" }));
    assert_eq!(execution.stopped_at.unwrap().duration_since(execution.started_at).as_secs(), 30);

    let machine = guarded(json!({ "TimeoutSeconds": 30 }));
    let bed = Bed::automatic().machine(machine).slow_function("f", 29, |_| Ok(json!(1)));
    assert_eq!(bed.run(json!({})).await.status, ExecutionStatus::Succeeded);
}

#[tokio::test]
async fn each_attempt_has_its_own_timeout() {
    let retry = json!([{ "ErrorEquals": ["States.Timeout"], "IntervalSeconds": 5, "MaxAttempts": 1 }]);
    let machine = guarded(json!({ "TimeoutSeconds": 10, "Retry": retry }));
    let bed = Bed::automatic().machine(machine).slow_function("f", 60, |_| Ok(json!(1)));
    let execution = bed.run(json!({})).await;
    assert_eq!(
        (execution.status, execution.error.as_deref()),
        (ExecutionStatus::Failed, Some("States.Timeout"))
    );
    assert_eq!(bed.functions.times("f"), [0.0, 15.0]);
    assert_eq!(execution.stopped_at.unwrap().duration_since(execution.started_at).as_secs(), 25);
}

#[tokio::test]
async fn a_machine_that_takes_too_long_is_timed_out_whatever_it_catches() {
    let machine = with(guarded(json!({ "Catch": catch_all() })), json!({ "TimeoutSeconds": 100 }));
    let bed = Bed::automatic().machine(machine).slow_function("f", 1000, |_| Ok(json!(1)));
    let engine = bed.open().await;
    let execution = run_on(&engine, "slow", json!({})).await;
    assert_eq!(execution.status, ExecutionStatus::TimedOut);
    assert_eq!((execution.error, execution.cause, execution.output), (None, None, None));
    assert_eq!(execution.stopped_at.unwrap().duration_since(execution.started_at).as_secs(), 100);
    assert_eq!(event_kinds(&engine, &execution_arn("slow")).await.last().unwrap(), "ExecutionTimedOut");
}

#[tokio::test]
async fn wildcards_match_what_aws_says() {
    // (error, wildcard, is caught)
    let cases = [
        ("Custom", "States.ALL", true),
        ("Custom", "States.TaskFailed", true),
        ("Lambda.Unknown", "States.TaskFailed", true),
        ("Custom", "custom", false),
        ("Custom", "Custom", true),
    ];
    for (name, wildcard, is_caught) in cases {
        let catch = json!([{ "ErrorEquals": [wildcard], "Next": "Caught" }]);
        let bed =
            Bed::automatic().machine(guarded(json!({ "Catch": catch }))).function("f", move |_| error(name));
        let expected = if is_caught { ExecutionStatus::Succeeded } else { ExecutionStatus::Failed };
        assert_eq!(bed.run(json!({})).await.status, expected, "{name} and {wildcard}");
    }
    let catch = json!([{ "ErrorEquals": ["States.TaskFailed"], "Next": "Caught" }]);
    let machine = guarded(json!({ "TimeoutSeconds": 1, "Catch": catch }));
    let bed = Bed::automatic().machine(machine).slow_function("f", 2, |_| Ok(json!(1)));
    assert_eq!(
        bed.run(json!({})).await.error.as_deref(),
        Some("States.Timeout"),
        "TaskFailed leaves Timeout alone"
    );
}

#[tokio::test]
async fn a_missing_path_ends_the_execution_past_every_retry_and_catch() {
    let retry = json!([{ "ErrorEquals": ["States.ALL"] }]);
    let cases = [
        json!({ "InputPath": "$.gone" }),
        json!({ "Parameters": { "FunctionName": "f", "Payload": { "x.$": "$.gone" } } }),
        json!({ "ResultSelector": { "x.$": "$.Payload.gone" } }),
        json!({ "OutputPath": "$.Payload.gone" }),
    ];
    for fields in cases {
        let machine = guarded(with(json!({ "Retry": retry, "Catch": catch_all() }), fields.clone()));
        let execution =
            Bed::automatic().machine(machine).function("f", |_| Ok(json!({}))).run(json!({ "a": 1 })).await;
        assert_eq!(execution.error.as_deref(), Some("States.Runtime"), "{fields}");
        let cause = execution.cause.unwrap();
        assert!(cause.contains("State \"T\"") && cause.contains("gone"), "{cause}");
    }
}

#[tokio::test]
async fn faults_of_data_name_their_state() {
    let single = |state: Value| states("S", json!({ "S": state }));
    let item = states("I", json!({ "I": { "Type": "Pass", "End": true } }));
    let cases = [
        (json!({ "Type": "Wait", "SecondsPath": "$.x", "End": true }), "States.Runtime", "SecondsPath"),
        (json!({ "Type": "Wait", "SecondsPath": "$.gone", "End": true }), "States.Runtime", "SecondsPath"),
        (
            json!({ "Type": "Map", "ItemsPath": "$.x", "ItemProcessor": item, "End": true }),
            "States.Runtime",
            "not a list",
        ),
        (
            json!({ "Type": "Pass", "Result": 1, "ResultPath": "$.x.y", "End": true }),
            "States.ResultPathMatchFailure",
            "$.x.y",
        ),
    ];
    for (state, name, word) in cases {
        let execution = Bed::automatic().machine(single(state)).run(json!({ "x": "text" })).await;
        assert_eq!(execution.error.as_deref(), Some(name));
        let cause = execution.cause.unwrap();
        assert!(cause.contains("State \"S\"") && cause.contains(word), "{cause}");
    }
    let lost = states(
        "S",
        json!({
            "S": { "Type": "Choice", "Choices": [{ "Variable": "$.x", "StringEquals": "other", "Next": "Done" }] },
            "Done": { "Type": "Succeed" },
        }),
    );
    let execution = Bed::automatic().machine(lost).run(json!({ "x": "text" })).await;
    assert_eq!(execution.error.as_deref(), Some("States.NoChoiceMatched"));
}

#[tokio::test]
async fn too_much_data_is_an_error_that_states_all_does_not_catch() {
    let large = || json!("x".repeat(262_144));
    let machine = guarded(json!({ "Catch": catch_all() }));
    let bed = Bed::automatic().machine(machine).function("f", move |_| Ok(large()));
    assert_eq!(bed.run(json!({})).await.error.as_deref(), Some("States.DataLimitExceeded"));

    let catch =
        json!([{ "ErrorEquals": ["States.DataLimitExceeded"], "ResultPath": null, "Next": "Caught" }]);
    let machine = guarded(json!({ "Catch": catch }));
    let bed = Bed::automatic().machine(machine).function("f", move |_| Ok(large()));
    assert_eq!(bed.run(json!({})).await.status, ExecutionStatus::Succeeded);

    // Just within the limit, with the two quotes.
    let bed = Bed::automatic().machine(guarded(json!({}))).function("f", |_| Ok(json!("x".repeat(262_142))));
    assert_eq!(bed.run(json!({})).await.status, ExecutionStatus::Succeeded);
}

#[tokio::test]
async fn a_function_that_panics_or_is_not_there_is_an_error() {
    let bed = Bed::automatic()
        .machine(guarded(json!({ "Catch": catch_all() })))
        .function("f", |_| panic!("on purpose"));
    assert_eq!(output(&bed.run(json!({})).await)["failure"]["Error"], "Lambda.Unknown");
    let bed = Bed::automatic().machine(guarded(json!({ "Catch": catch_all() })));
    assert_eq!(output(&bed.run(json!({})).await)["failure"]["Error"], "Lambda.ResourceNotFoundException");
}

#[tokio::test]
async fn a_function_cannot_pass_for_the_engine() {
    let bed = Bed::automatic()
        .machine(guarded(json!({ "Catch": catch_all() })))
        .function("f", |_| error("States.Runtime"));
    let execution = bed.run(json!({})).await;
    assert_eq!(output(&execution)["failure"]["Error"], "Lambda.Unknown");
}

#[tokio::test]
async fn an_endless_loop_ends_at_the_history_limit() {
    let definition = states(
        "A",
        json!({
            "A": { "Type": "Pass", "Next": "B" },
            "B": { "Type": "Choice", "Choices": [{ "Variable": "$.stop", "IsPresent": true, "Next": "C" }], "Default": "A" },
            "C": { "Type": "Succeed" },
        }),
    );
    let bed = Bed::automatic().machine(definition);
    let engine = bed.open().await;
    let execution = run_on(&engine, "endless", json!({})).await;
    assert_eq!(execution.error.as_deref(), Some("States.Runtime"));
    assert!(execution.cause.unwrap().contains("25000 events"));
}
