//! Steps that fail: once, for good, and in the middle.

use std::process::Command;
use std::time::Duration;

use pvm_tests::api::Api;
use pvm_tests::aws::{AwsStack, Fault};
use pvm_tests::scenarios::conversations::of_type;
use serde_json::{Value, json};

fn id_of(project: &str) -> String {
    project.rsplit('/').next().unwrap().to_owned()
}

/// Makes the creation of the project's VM fail.
fn fail(aws: &AwsStack, project: &str, status: u16, times: u32) {
    aws.faults.fail(Fault { method: "POST", path: "/sandboxes", body_has: id_of(project), status, times });
}

/// The project's status document, once its VM is in a state that lasts.
async fn settled(api: &Api, project: &str) -> Value {
    // A bound for a hang; retries wait some seconds each.
    for _ in 0..600 {
        let status = api.get(&format!("{project}/status")).await.expect(200);
        if ["active", "failed", "none"].contains(&status["vm_status"].as_str().unwrap()) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the VM's state does not settle");
}

/// The VM service fails once: `Provision` raises an error by name, and the machine tries it again.
pub(crate) async fn once(aws: &AwsStack) {
    let project = aws.api.project("fails once").await;
    fail(aws, &project, 503, 1);
    aws.api.post(&format!("{project}/vm/setup"), json!({})).await.expect(202);
    let status = settled(&aws.api, &project).await;
    assert_eq!(status["vm_status"], "active", "{status}");
    assert!(aws.faults.seen("POST", "/sandboxes", &id_of(&project)) >= 2, "the step was not tried again");
}

/// The VM service refuses: the run fails and says so, the project stays usable, and works once the cause is gone.
pub(crate) async fn for_good(aws: &AwsStack) {
    let api = &aws.api;
    let project = api.project("fails for good").await;
    fail(aws, &project, 400, u32::MAX);
    let begin = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm echo never"});
    let made = api.post(&format!("{project}/conversations"), begin).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    let finished = of_type(&events, "run.finished");
    assert_eq!(finished[0]["data"]["outcome"], "failed", "{finished:#?}");
    let status = settled(api, &project).await;
    assert_eq!(status["vm_status"], "failed", "{status}");
    assert!(status.to_string().contains("made to fail by the test"), "no reason: {status}");
    // Nothing holds the VM any more: the next use may set it up.
    aws.faults.mend(&id_of(&project));
    assert_eq!(api.shell(&project, "echo works").await, "works\n");
}

/// The function dies in the middle of a tool call. The machine calls it again, and the command has run once.
pub(crate) async fn killed(aws: &AwsStack) {
    let api = &aws.api;
    let project = api.project("killed").await;
    api.shell(&project, "true").await;
    let message = "/vm echo started >> log; sleep 4; echo ended >> log";
    let begin = json!({"agent_ids": ["dev_agent"], "initial_message": message});
    let made = api.post(&format!("{project}/conversations"), begin).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    while api.run(&project, json!({"command": "test -s log"})).await["exit_code"] != 0 {}
    let processes = aws.processes("RunToolFunction");
    assert!(!processes.is_empty(), "the function does not run");
    for pid in processes {
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    }
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed", "{events:#?}");
    assert_eq!(of_type(&events, "tool.finished").len(), 1, "{events:#?}");
    assert_eq!(api.shell(&project, "cat log").await, "started\nended\n");
}
