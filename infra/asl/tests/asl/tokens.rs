//! Tasks that wait for somebody's answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use pvm_asl::{ApiError, ExecutionStatus, InvokeError};
use serde_json::{Value, json};

use crate::bed::{Bed, MACHINE, event_kinds, execution_arn, output, start, states, with};

type Tokens = Arc<Mutex<Vec<String>>>;

fn asking(fields: Value) -> Value {
    let ask = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": { "FunctionName": "ask", "Payload": { "token.$": "$$.Task.Token" } },
        "TimeoutSeconds": 1000,
        "Next": "Done",
    });
    states("Ask", json!({ "Ask": with(ask, fields), "Done": { "Type": "Succeed" } }))
}

/// A bed whose function `ask` notes the tokens it gets.
fn bed(fields: Value) -> (Bed, Tokens) {
    let tokens = Tokens::default();
    let noted = Arc::clone(&tokens);
    let bed = Bed::manual().machine(asking(fields)).function("ask", move |payload| {
        noted.lock().unwrap().push(payload["token"].as_str().unwrap().to_owned());
        Ok(json!("asked"))
    });
    (bed, tokens)
}

fn latest(tokens: &Tokens) -> String {
    tokens.lock().unwrap().last().unwrap().clone()
}

#[tokio::test]
async fn the_answer_is_the_tasks_result() {
    let (bed, tokens) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    bed.clock.advance(Duration::from_secs(500));
    bed.clock.settle().await;
    let token = latest(&tokens);
    engine.send_task_heartbeat(&token).await.unwrap();
    engine.send_task_success(&token, r#"{"approved": true}"#).await.unwrap();
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(output(&execution), json!({ "approved": true }));
    assert!(matches!(engine.send_task_success(&token, "{}").await, Err(ApiError::TaskTimedOut)));
    assert!(matches!(engine.send_task_heartbeat(&token).await, Err(ApiError::TaskTimedOut)));
    assert_eq!(
        event_kinds(&engine, &execution_arn("a")).await[1..6],
        ["TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSubmitted", "TaskSucceeded"]
    );
}

#[tokio::test]
async fn a_failure_can_be_caught_by_its_name() {
    let catch = json!([{ "ErrorEquals": ["Denied"], "ResultPath": "$.failure", "Next": "Done" }]);
    let (bed, tokens) = bed(json!({ "Catch": catch }));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    engine.send_task_failure(&latest(&tokens), Some("Denied"), Some("by a person")).await.unwrap();
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(output(&execution), json!({ "failure": { "Error": "Denied", "Cause": "by a person" } }));
}

#[tokio::test]
async fn a_failure_without_a_name_is_a_failed_task() {
    let (bed, tokens) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    engine.send_task_failure(&latest(&tokens), None, None).await.unwrap();
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(execution.error.as_deref(), Some("States.TaskFailed"));
}

#[tokio::test]
async fn nobody_answering_is_a_timeout() {
    let catch = json!([{ "ErrorEquals": ["States.Timeout"], "ResultPath": "$.failure", "Next": "Done" }]);
    let (bed, tokens) = bed(json!({ "Catch": catch }));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    bed.clock.advance(Duration::from_secs(999));
    bed.clock.settle().await;
    assert_eq!(engine.describe_execution(&arn).await.unwrap().status, ExecutionStatus::Running);
    bed.clock.advance(Duration::from_secs(1));
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(output(&execution)["failure"]["Error"], "States.Timeout");
    assert!(matches!(engine.send_task_success(&latest(&tokens), "{}").await, Err(ApiError::TaskTimedOut)));
}

#[tokio::test]
async fn a_store_in_trouble_is_waited_for_when_a_token_is_taken_back() {
    let (bed, _tokens) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    let disk = rusqlite::Connection::open(bed.store_path()).unwrap();
    disk.execute_batch(
        "CREATE TRIGGER trouble BEFORE UPDATE OF task_token ON cursor
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    )
    .unwrap();
    bed.clock.advance(Duration::from_secs(1000));
    // Nothing tells that the attempt has failed; the execution must be running after any time.
    let ended = tokio::time::timeout(Duration::from_millis(100), engine.wait_for_end(&arn)).await;
    assert!(ended.is_err(), "{ended:?}");
    disk.execute_batch("DROP TRIGGER trouble").unwrap();
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(execution.error.as_deref(), Some("States.Timeout"));
}

#[tokio::test]
async fn what_was_asked_is_done_though_whoever_asked_is_gone() {
    let (bed, tokens) = bed(json!({}));
    let engine = bed.open().await;
    // Polled once each, which is when the store gets to know, and then dropped.
    let machine = engine.home().machine_arn(MACHINE);
    assert!(engine.start_execution(&machine, Some("a"), "{}").now_or_never().is_none());
    while engine.describe_execution(&execution_arn("a")).await.is_err() {}
    bed.clock.settle().await;
    assert!(engine.send_task_success(&latest(&tokens), "1").now_or_never().is_none());
    let execution = engine.wait_for_end(&execution_arn("a")).await.unwrap();
    assert_eq!(output(&execution), 1);
}

#[tokio::test]
async fn bad_tokens_and_answers_are_refused() {
    let (bed, tokens) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    let token = latest(&tokens);
    assert!(matches!(engine.send_task_success("nonsense", "{}").await, Err(ApiError::InvalidToken)));
    assert!(matches!(engine.send_task_success(&token, "{").await, Err(ApiError::InvalidOutput(_))));
    let large = format!("\"{}\"", "x".repeat(262_143));
    assert!(matches!(engine.send_task_success(&token, &large).await, Err(ApiError::Validation(_))));
    let long = "x".repeat(257);
    assert!(matches!(
        engine.send_task_failure(&token, Some(&long), None).await,
        Err(ApiError::Validation(_))
    ));
    // The token of an engine with other executions.
    let (other, other_tokens) = self::bed(json!({}));
    let other_engine = other.open().await;
    for name in ["x", "y", "z"] {
        start(&other_engine, name, json!({})).await;
    }
    other.clock.settle().await;
    let foreign = other_tokens.lock().unwrap().clone();
    let mut unknown = 0;
    for token in &foreign {
        match engine.send_task_success(token, "{}").await {
            Err(ApiError::TaskDoesNotExist) => unknown += 1,
            Err(ApiError::TaskTimedOut) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(unknown, 2);
    assert_eq!(engine.describe_execution(&arn).await.unwrap().status, ExecutionStatus::Running);
}

#[tokio::test]
async fn the_first_answer_counts() {
    let (bed, tokens) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    let token = latest(&tokens);
    let (first, second) = tokio::join!(
        engine.send_task_success(&token, "1"),
        engine.send_task_failure(&token, Some("No"), None)
    );
    assert!(first.is_ok());
    assert!(matches!(second, Err(ApiError::TaskTimedOut)));
    assert_eq!(output(&engine.wait_for_end(&arn).await.unwrap()), json!(1));
}

#[tokio::test]
async fn an_answer_may_come_before_the_function_has_returned() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<String>();
    let sender = Mutex::new(Some(sender));
    let bed = Bed::manual().machine(asking(json!({}))).async_function("ask", move |payload| {
        sender.lock().unwrap().take().unwrap().send(payload["token"].as_str().unwrap().to_owned()).unwrap();
        Box::pin(std::future::pending())
    });
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    let token = receiver.await.unwrap();
    engine.send_task_success(&token, "\"early\"").await.unwrap();
    assert_eq!(output(&engine.wait_for_end(&arn).await.unwrap()), json!("early"));
}

#[tokio::test]
async fn a_function_that_fails_fails_the_task_and_a_retry_has_a_new_token() {
    let tokens = Tokens::default();
    let noted = Arc::clone(&tokens);
    let retry = json!([{ "ErrorEquals": ["Transient"], "IntervalSeconds": 3 }]);
    let bed = Bed::manual().machine(asking(json!({ "Retry": retry }))).function("ask", move |payload| {
        let mut noted = noted.lock().unwrap();
        noted.push(payload["token"].as_str().unwrap().to_owned());
        if noted.len() == 1 { Err(InvokeError::new("Transient", "x")) } else { Ok(json!(null)) }
    });
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    bed.clock.advance(Duration::from_secs(3));
    bed.clock.settle().await;
    let tokens = tokens.lock().unwrap().clone();
    assert_eq!(tokens.len(), 2);
    assert_ne!(tokens[0], tokens[1]);
    assert!(matches!(engine.send_task_success(&tokens[0], "0").await, Err(ApiError::TaskTimedOut)));
    engine.send_task_success(&tokens[1], "1").await.unwrap();
    assert_eq!(output(&engine.wait_for_end(&arn).await.unwrap()), json!(1));
}

#[tokio::test]
async fn a_token_outlives_the_process_and_its_function_is_not_called_again() {
    let (bed, tokens) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    engine.shutdown().await;
    bed.clock.advance(Duration::from_secs(400));

    let engine = bed.open().await;
    bed.clock.settle().await;
    assert_eq!(tokens.lock().unwrap().len(), 1);
    engine.send_task_success(&latest(&tokens), "\"late\"").await.unwrap();
    assert_eq!(output(&engine.wait_for_end(&arn).await.unwrap()), json!("late"));
}

#[tokio::test]
async fn the_time_of_a_token_runs_on_while_the_process_is_away() {
    let (bed, _) = bed(json!({}));
    let engine = bed.open().await;
    let arn = start(&engine, "a", json!({})).await;
    bed.clock.settle().await;
    engine.shutdown().await;
    bed.clock.advance(Duration::from_secs(1001));
    let engine = bed.open().await;
    let execution = engine.wait_for_end(&arn).await.unwrap();
    assert_eq!(execution.error.as_deref(), Some("States.Timeout"));
}
