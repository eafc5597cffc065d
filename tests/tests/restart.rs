//! The real program, killed with SIGKILL in the middle of a run and started again: nothing is lost, nothing runs twice.

use nix::sys::signal::Signal;
use pvm_tests::api::assert_gap_free;
use pvm_tests::process::{Process, assert_nothing_left, command, free_ports};
use pvm_tests::scenarios::conversations::of_type;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (home, ports) = (folder.path().join("state"), free_ports());
    let process = Process::start(&home, ports).await;
    let api = process.api();
    let project = api.project("survivor").await;
    api.shell(&project, "echo before > kept.txt").await;
    let vm = api.get(&format!("{project}/status")).await.expect(200)["vm_id"].clone();
    let background = api
        .post(
            &format!("{project}/vm/command"),
            json!({"command": "sleep 3; echo end >> ends", "background": true}),
        )
        .await
        .expect(202);
    // Every line tells of each of its starts.
    let message = "/vm echo one >> starts\n/vm echo two >> starts; sleep 2\n/vm echo three >> starts";
    let asked = json!({"agent_ids": ["dev_agent"], "initial_message": message});
    let made = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let conversation = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let second = |event: &serde_json::Value| {
        event["type"] == "tool.started" && event["data"].to_string().contains("two")
    };
    api.events_until(&format!("{conversation}/events"), second).await;
    process.ended(Signal::SIGKILL).await;

    let process = Process::start(&home, ports).await;
    let api = process.api();
    let events =
        api.events_until(&format!("{conversation}/events"), |event| event["type"] == "run.finished").await;
    assert_gap_free(&events);
    let finished = of_type(&events, "run.finished");
    assert_eq!(
        (finished.len(), finished[0]["data"]["outcome"].as_str()),
        (1, Some("completed")),
        "{}",
        finished[0]
    );
    assert_eq!(api.shell(&project, "cat starts").await, "one\ntwo\nthree\n", "each line ran once");
    assert_eq!(api.shell(&project, "cat kept.txt").await, "before\n");
    assert_eq!(api.get(&format!("{project}/status")).await.expect(200)["vm_id"], vm, "the VM was adopted");
    let id = background["command_id"].as_str().unwrap();
    while api.get(&format!("{project}/vm/commands/{id}?wait=5")).await.expect(200)["status"] == "running" {}
    assert_eq!(api.shell(&project, "cat ends").await, "end\n", "the command in the background ran once");

    // Ctrl-C pauses the VM with its files; the next start resumes it on use.
    process.ended(Signal::SIGINT).await;
    let process = Process::start(&home, ports).await;
    let api = process.api();
    assert_eq!(api.get(&format!("{project}/status")).await.expect(200)["vm_status"], "paused");
    assert_eq!(api.shell(&project, "cat kept.txt").await, "before\n");
    process.ended(Signal::SIGINT).await;
    assert!(command(&home, ports, "purge").status().await.unwrap().success());
    assert!(!home.exists());
    assert_nothing_left(&folder.path().display().to_string());
}
