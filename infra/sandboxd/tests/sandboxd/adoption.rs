//! Servers that come back: after a stop, after a crash.

use pvm_e2b_wire::control::Sandbox;
use pvm_sandboxd::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab::{Lab, eventually};

/// The stored record of a sandbox as it is now.
fn last_line(path: &std::path::Path) -> Value {
    serde_json::from_str(std::fs::read_to_string(path).unwrap().lines().last().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn running_sandboxes_survive_a_crash_of_the_server() {
    let mut lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"metadata": {"name": "mine"}})).await;
    let pid = lab
        .spawn(&sandbox, "user", "echo before; until [ -e /tmp/go ]; do sleep 0.02; done; echo after")
        .await;
    lab.crash().await;
    assert_eq!(lab.state_of(&sandbox).await, "running");
    let detail =
        lab.must(200, "GET", &format!("/sandboxes/{}", sandbox.sandbox_id), Value::Null).await.json();
    assert_eq!(detail["metadata"]["name"], "mine");
    lab.sh(&sandbox, &format!("kill -0 {pid} && touch /tmp/go")).await.ok();
    let output = lab.connect_process(&sandbox, pid).await;
    assert_eq!((output.stdout.as_str(), output.exit), ("before\nafter\n", Some(0)));
    // The way out is open again as well.
    let seen = lab.sh(&sandbox, "curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/").await;
    assert_eq!(seen.stdout, "403");
    lab.finish().await;
}

/// Sends a signal to a sandbox's first process.
pub(crate) fn signal(lab: &Lab, sandbox: &Sandbox, signal: Signal) {
    let record = last_line(&lab.state().join("sandboxes").join(&sandbox.sandbox_id).join("record.jsonl"));
    let pid = i32::try_from(record["process"]["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_daemon_is_slow_is_kept() {
    let mut lab = Lab::start().await;
    let sandbox = lab.create().await;
    let pid = lab.spawn(&sandbox, "user", "sleep 1000").await;
    // It stands for one that gets no time on a busy machine.
    signal(&lab, &sandbox, Signal::STOP);
    lab.crash().await;
    assert_eq!(lab.state_of(&sandbox).await, "running");
    // Longer than the server waits for one answer.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(lab.state_of(&sandbox).await, "running");
    signal(&lab, &sandbox, Signal::CONT);
    lab.sh(&sandbox, &format!("kill -0 {pid}")).await.ok();
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_sandboxes_are_adopted_and_can_be_killed() {
    let mut lab = Lab::start().await;
    let (running, paused, files) = (lab.create().await, lab.create().await, lab.create().await);
    lab.must(204, "POST", &format!("/sandboxes/{}/pause", paused.sandbox_id), Value::Null).await;
    lab.must(204, "POST", &format!("/sandboxes/{}/pause", files.sandbox_id), json!({"memory": false})).await;
    lab.restart(Shutdown::Detach).await;
    assert_eq!(lab.state_of(&running).await, "running");
    assert_eq!(lab.state_of(&paused).await, "paused");
    assert_eq!(lab.state_of(&files).await, "paused");
    for sandbox in [&paused, &files] {
        let path = format!("/v2/sandboxes/{}/connect", sandbox.sandbox_id);
        lab.must(201, "POST", &path, json!({"timeout": 60})).await;
        assert_eq!(lab.sh(sandbox, "echo back").await.ok(), "back");
    }
    lab.kill(&running).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_ends_all_processes_and_keeps_the_files() {
    let mut lab = Lab::start().await;
    let (running, frozen) = (lab.create().await, lab.create().await);
    lab.sh(&running, "echo kept > /workspace/file; sleep 1000 & true").await.ok();
    lab.must(204, "POST", &format!("/sandboxes/{}/pause", frozen.sandbox_id), Value::Null).await;
    lab.restart(Shutdown::PauseAll).await;
    for sandbox in [&running, &frozen] {
        assert_eq!(lab.state_of(sandbox).await, "paused");
        let path = format!("/v2/sandboxes/{}/connect", sandbox.sandbox_id);
        lab.must(201, "POST", &path, json!({"timeout": 60})).await;
    }
    assert_eq!(lab.sh(&running, "cat /workspace/file; pgrep -c sleep").await.stdout, "kept\n0\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_first_process_dies_keeps_its_files() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    lab.sh(&sandbox, "echo kept > /workspace/file").await.ok();
    signal(&lab, &sandbox, Signal::KILL);
    eventually("the sandbox is paused", async || lab.state_of(&sandbox).await == "paused").await;
    lab.must(201, "POST", &format!("/v2/sandboxes/{}/connect", sandbox.sandbox_id), json!({"timeout": 60}))
        .await;
    assert_eq!(lab.sh(&sandbox, "cat /workspace/file").await.ok(), "kept");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_made_and_half_killed_sandboxes_are_cleared_away() {
    let mut lab = Lab::start().await;
    let (creating, killing) = (lab.create().await, lab.create().await);
    // As a crash in the middle would leave them.
    let folder = lab.state().join("sandboxes");
    let set_phase = |id: &str, phase: &str| {
        let path = folder.join(id).join("record.jsonl");
        let mut record = last_line(&path);
        record["phase"] = json!(phase);
        std::fs::write(path, format!("{record}\n")).unwrap();
    };
    set_phase(&creating.sandbox_id, "creating");
    set_phase(&killing.sandbox_id, "killing");
    std::fs::create_dir(folder.join("iempty")).unwrap();
    lab.crash().await;
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    let listed = lab.must(200, "GET", "/v2/sandboxes", Value::Null).await.json();
    assert_eq!(listed, json!([]));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_sandboxes_are_paused_with_their_files() {
    let mut lab = Lab::start().await;
    let sandbox = lab.create().await;
    lab.sh(&sandbox, "echo kept > /workspace/file").await.ok();
    let path = lab.state().join("sandboxes").join(&sandbox.sandbox_id).join("record.jsonl");
    let mut record = last_line(&path);
    record["host_boot_id"] = json!("another boot");
    std::fs::write(path, format!("{record}\n")).unwrap();
    lab.crash().await;
    assert_eq!(lab.state_of(&sandbox).await, "paused");
    lab.must(201, "POST", &format!("/v2/sandboxes/{}/connect", sandbox.sandbox_id), json!({"timeout": 60}))
        .await;
    assert_eq!(lab.sh(&sandbox, "cat /workspace/file").await.ok(), "kept");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_serves_one_server_at_a_time() {
    let lab = Lab::start().await;
    let mut config = pvm_sandboxd::Config::new(lab.state());
    config.listen.set_port(0);
    let refused = pvm_sandboxd::Server::start(config.clone()).await.unwrap_err();
    assert!(matches!(refused, pvm_sandboxd::StartError::StateInUse(_)), "{refused}");
    let elsewhere = tempfile::tempdir().unwrap();
    config.state_dir = elsewhere.path().into();
    config.listen = lab.address();
    let refused = pvm_sandboxd::Server::start(config).await.unwrap_err();
    assert!(refused.to_string().contains("is in use"), "{refused}");
    lab.finish().await;
}
