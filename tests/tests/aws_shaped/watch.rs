//! What runs by itself: the rule about ended executions, and the clock.

use std::time::Duration;

use pvm_application::ports::Machine;
use pvm_domain::ids::{PrefixedId, ProjectId};
use pvm_tests::aws::AwsStack;
use pvm_tests::scenarios::conversations::of_type;
use serde_json::{Value, json};

/// An execution that somebody stops from outside must not leave its run open.
pub(crate) async fn stopped(aws: &AwsStack) {
    let api = &aws.api;
    let project = api.project("stopped").await;
    api.shell(&project, "true").await;
    let begin = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm sleep 600"});
    let made = api.post(&format!("{project}/conversations"), begin).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    api.events_until(&format!("{path}/events"), |event| event["type"] == "tool.started").await;
    let run = made["run_id"].as_str().unwrap();
    aws.stop_execution(Machine::RunTurn, &format!("{run}-1")).await;
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    assert_eq!(of_type(&events, "run.finished").len(), 1);
    assert_ne!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed");
    // The conversation goes on.
    api.post(&format!("{path}/messages"), json!({"message": "/vm echo next > next"})).await;
    while api.run(&project, json!({"command": "test -s next"})).await["exit_code"] != 0 {}
}

/// A VM of ours whose project does not exist is ended by the scheduled clean-up, which nobody calls.
pub(crate) async fn cleanup(aws: &AwsStack) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let nobody = ProjectId::from_parts(1, 1);
    let stray = json!({
        "templateID": "base",
        "timeout": 600,
        "metadata": {"pvm_deployment": pvm_tests::aws::STACK, "pvm_project": nobody.as_str()},
    });
    let made = http.post(format!("{}/sandboxes", aws.e2b_url)).header("x-api-key", &aws.e2b_key).json(&stray);
    let made = made.send().await.unwrap().error_for_status().unwrap();
    let made: Value = made.json().await.unwrap();
    let url = format!("{}/sandboxes/{}", aws.e2b_url, made["sandboxID"].as_str().unwrap());
    // The clock ticks every minute; eight ticks are a bound for a hang.
    for _ in 0..960 {
        let status = http.get(&url).header("x-api-key", &aws.e2b_key).send().await.unwrap().status();
        if status == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("the stray VM is still there: the clean-up did not run, or did not end it");
}
