//! Approvals: the state machine waits with a task token, and a person's decision is the answer.

use std::time::Duration;

use pvm_tests::api::{Api, assert_gap_free};
use pvm_tests::aws::AwsStack;
use pvm_tests::scenarios::conversations::of_type;
use serde_json::{Value, json};

/// Begins a conversation whose agent asks before it runs a command; answers its project, path and the approval's data.
async fn asked(api: &Api, agent: &str) -> (String, String, Value) {
    let project = api.project("approval").await;
    let definition = json!({"agent_id": agent, "approvals": {"execute_command": "ask"}});
    api.post("/api/agents", definition).await.expect(201);
    let begin = json!({"agent_ids": [agent], "initial_message": "/vm echo approved > decided"});
    let made = api.post(&format!("{project}/conversations"), begin).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let events =
        api.events_until(&format!("{path}/events"), |event| event["type"] == "approval.required").await;
    let required = of_type(&events, "approval.required")[0]["data"].clone();
    // The event is told with the answer that asks; the workflow then begins to wait.
    loop {
        let status = api.get(&path).await.expect(200)["status"].clone();
        if status == "waiting" {
            break;
        }
        assert_eq!(status, "running");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (project, path, required)
}

async fn decided(api: &Api, path: &str, required: &Value, decision: &str) -> Vec<Value> {
    let id = required["approval_id"].as_str().unwrap();
    let decide = format!("{path}/approvals/{id}");
    let body = json!({"decision": decision, "request_hash": required["request_hash"]});
    api.post(&decide, body.clone()).await.expect(200);
    // A second click changes nothing.
    api.post(&decide, body).await.expect(200);
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    assert_gap_free(&events);
    assert_eq!(of_type(&events, "approval.decided").len(), 1, "{events:#?}");
    events
}

pub(crate) async fn allowed(aws: &AwsStack) {
    let (project, path, required) = asked(&aws.api, "asks-first").await;
    let events = decided(&aws.api, &path, &required, "approve").await;
    assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed");
    assert_eq!(aws.api.shell(&project, "cat decided").await, "approved\n");
}

pub(crate) async fn denied(aws: &AwsStack) {
    let (project, path, required) = asked(&aws.api, "asks-in-vain").await;
    let events = decided(&aws.api, &path, &required, "deny").await;
    assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed");
    aws.api.shell(&project, "test ! -e decided").await;
}
