//! The HTTP server, through the AWS SDK.

use aws_sdk_sfn::Client;
use aws_sdk_sfn::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_sfn::error::ProvideErrorMetadata;
use aws_sdk_sfn::types::{ExecutionStatus, HistoryEventType};
use pvm_asl::{Engine, ServerOptions, router};
use serde_json::json;
use std::sync::{Arc, Mutex};

use crate::bed::{Bed, execution_arn, machine_arn, states};

async fn serve(engine: Engine, options: ServerOptions, access_key: &str) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router(engine, options)).await });
    let config = aws_sdk_sfn::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new(access_key, "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// A machine that asks and, once answered, is done; and the tokens it gave away.
fn asking() -> (Bed, Arc<Mutex<Vec<String>>>) {
    let tokens: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&tokens);
    let definition = states(
        "Ask",
        json!({
            "Ask": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
                "Parameters": { "FunctionName": "ask", "Payload": { "token.$": "$$.Task.Token" } },
                "End": true,
            },
        }),
    );
    let bed = Bed::manual().machine(definition).function("ask", move |payload| {
        noted.lock().unwrap().push(payload["token"].as_str().unwrap().to_owned());
        Ok(json!(null))
    });
    (bed, tokens)
}

#[tokio::test]
async fn the_sdk_starts_describes_answers_lists_and_reads_history() {
    let (bed, tokens) = asking();
    let engine = bed.open().await;
    let client = serve(engine.clone(), ServerOptions::default(), "any").await;

    let started = client
        .start_execution()
        .state_machine_arn(machine_arn())
        .name("e")
        .input(r#"{"a":1}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(started.execution_arn(), execution_arn("e"));
    bed.clock.settle().await;
    let running = client.describe_execution().execution_arn(execution_arn("e")).send().await.unwrap();
    assert_eq!(running.status(), &ExecutionStatus::Running);
    assert_eq!(running.input(), Some(r#"{"a":1}"#));
    assert_eq!((running.name(), running.stop_date()), (Some("e"), None));

    let token = tokens.lock().unwrap()[0].clone();
    client.send_task_heartbeat().task_token(&token).send().await.unwrap();
    client.send_task_success().task_token(&token).output(r#"{"ok":true}"#).send().await.unwrap();
    engine.wait_for_end(&execution_arn("e")).await.unwrap();
    let ended = client.describe_execution().execution_arn(execution_arn("e")).send().await.unwrap();
    assert_eq!((ended.status(), ended.output()), (&ExecutionStatus::Succeeded, Some(r#"{"ok":true}"#)));
    assert!(ended.stop_date().is_some());

    let second = client.start_execution().state_machine_arn(machine_arn()).send().await.unwrap();
    let stopped = client
        .stop_execution()
        .execution_arn(second.execution_arn())
        .error("Cancelled")
        .cause("enough")
        .send()
        .await
        .unwrap();
    assert_eq!(stopped.stop_date().secs(), second.start_date().secs());
    let aborted = client.describe_execution().execution_arn(second.execution_arn()).send().await.unwrap();
    assert_eq!((aborted.error(), aborted.cause()), (Some("Cancelled"), Some("enough")));
    assert_eq!(aborted.input(), Some("{}"));

    let listed = client
        .list_executions()
        .state_machine_arn(machine_arn())
        .status_filter(ExecutionStatus::Aborted)
        .send()
        .await
        .unwrap();
    assert_eq!(listed.executions().len(), 1);
    let page = client.list_executions().state_machine_arn(machine_arn()).max_results(1).send().await.unwrap();
    assert_eq!(page.executions().len(), 1);
    let rest = client
        .list_executions()
        .state_machine_arn(machine_arn())
        .set_next_token(page.next_token().map(ToOwned::to_owned))
        .send()
        .await
        .unwrap();
    assert_eq!((rest.executions().len(), rest.next_token()), (1, None));

    let history = client
        .get_execution_history()
        .execution_arn(execution_arn("e"))
        .reverse_order(true)
        .send()
        .await
        .unwrap();
    let newest = &history.events()[0];
    assert_eq!(newest.r#type(), &HistoryEventType::ExecutionSucceeded);
    assert_eq!(newest.execution_succeeded_event_details().unwrap().output(), Some(r#"{"ok":true}"#));
    let bare = client
        .get_execution_history()
        .execution_arn(execution_arn("e"))
        .include_execution_data(false)
        .send()
        .await
        .unwrap();
    assert_eq!(bare.events()[1].state_entered_event_details().unwrap().input(), None);

    let machine = client.describe_state_machine().state_machine_arn(machine_arn()).send().await.unwrap();
    assert_eq!(machine.name(), "machine");
    assert!(machine.definition().contains("waitForTaskToken"));
}

#[tokio::test]
async fn the_sdk_sees_the_errors_by_their_types() {
    let (bed, tokens) = asking();
    let engine = bed.open().await;
    let client = serve(engine, ServerOptions::default(), "any").await;
    let start = |name: &str, input: &str| {
        client.start_execution().state_machine_arn(machine_arn()).name(name).input(input).send()
    };
    start("e", "{}").await.unwrap();
    start("e", "{}").await.unwrap();
    bed.clock.settle().await;

    assert!(start("e", "1").await.unwrap_err().into_service_error().is_execution_already_exists());
    assert!(start("a b", "1").await.unwrap_err().into_service_error().is_invalid_name());
    assert!(start("f", "{").await.unwrap_err().into_service_error().is_invalid_execution_input());
    let other = machine_arn().replace("machine", "other");
    let error =
        client.start_execution().state_machine_arn(other).send().await.unwrap_err().into_service_error();
    assert!(!error.message().unwrap_or_default().is_empty(), "{error:?}");
    let error = client.start_execution().state_machine_arn("nonsense").send().await.unwrap_err();
    assert!(error.into_service_error().is_invalid_arn());
    let missing = machine_arn().replace(":machine", ":missing");
    let error = client.start_execution().state_machine_arn(missing).send().await.unwrap_err();
    assert!(error.into_service_error().is_state_machine_does_not_exist());

    let error = client.describe_execution().execution_arn(execution_arn("none")).send().await.unwrap_err();
    assert!(error.into_service_error().is_execution_does_not_exist());
    let error = client.stop_execution().execution_arn(execution_arn("none")).send().await.unwrap_err();
    assert!(error.into_service_error().is_execution_does_not_exist());

    let token = tokens.lock().unwrap()[0].clone();
    let error = client.send_task_success().task_token("nonsense").output("1").send().await.unwrap_err();
    assert!(error.into_service_error().is_invalid_token());
    let error = client.send_task_success().task_token(&token).output("{").send().await.unwrap_err();
    assert!(error.into_service_error().is_invalid_output());
    client.send_task_failure().task_token(&token).error("Denied").cause("no").send().await.unwrap();
    let error = client.send_task_failure().task_token(&token).send().await.unwrap_err();
    assert!(error.into_service_error().is_task_timed_out());

    let error = client.list_state_machines().send().await.unwrap_err().into_service_error();
    assert_eq!(error.code(), Some("UnknownOperationException"));
}

#[tokio::test]
async fn a_server_with_an_access_key_answers_nobody_else() {
    let (bed, _) = asking();
    let options = || ServerOptions { access_key_id: Some("mine".into()) };
    let engine = bed.open().await;
    let stranger = serve(engine.clone(), options(), "other").await;
    let error = stranger.list_executions().state_machine_arn(machine_arn()).send().await.unwrap_err();
    assert_eq!(error.into_service_error().code(), Some("UnrecognizedClientException"));
    let owner = serve(engine, options(), "mine").await;
    assert!(owner.list_executions().state_machine_arn(machine_arn()).send().await.is_ok());
}
