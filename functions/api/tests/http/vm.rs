//! Commands: their end in the answer, or where they stand, or as a stream.

use pvm_application::ports::{Clock, NewId};
use pvm_application::store::{Tx, WriteStore};
use pvm_application::vm::recipe;
use pvm_domain::command::{Command, CommandSpec, CommandStatus, KeptOutput};
use pvm_entry::System;
use serde_json::{Value, json};

use crate::parts::{Blocks, House, house};

#[tokio::test]
async fn a_command_answers_with_its_end_or_with_where_it_stands() {
    let house = house().await;
    let project = house.project().await;
    house.ready(&project).await.unwrap();
    let vm = format!("/api/projects/{project}/vm");
    let done = house.post(&format!("{vm}/command"), &json!({"command": "say hello"})).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!((done.body["status"].as_str(), done.body["stdout"].as_str()), (Some("exited"), Some("hello")));
    assert_eq!((done.body["exit_code"].as_i64(), done.body["truncated"].as_bool()), (Some(0), Some(false)));
    let started = house.post(&format!("{vm}/command"), &json!({"command": "wait", "background": true})).await;
    assert_eq!((started.status.as_u16(), started.body["status"].as_str()), (202, Some("running")));
    let one = format!("{vm}/commands/{}", started.text("command_id"));
    house.app.vm.write("abc");
    let shown = house.get(&format!("{one}?stdout_offset=1")).await;
    assert_eq!((shown.body["stdout"].as_str(), shown.body["stdout_next"].as_u64()), (Some("bc"), Some(3)));
    let raw = house.get(&format!("{one}/output?offset=2")).await;
    assert_eq!((&raw.bytes[..], raw.headers["x-output-next"].to_str().unwrap()), (&b"c"[..], "3"));
    let killed = house.ask("DELETE", &one).token(&house.ann).send().await;
    assert_eq!(
        (killed.status.as_u16(), killed.body["status"].as_str()),
        (200, Some("killed")),
        "{}",
        killed.body
    );
    assert_eq!(house.get(&one).await.body["signal"], 9);
}

#[tokio::test]
async fn a_command_streams_its_output_and_then_its_end() {
    let house = house().await;
    let project = house.project().await;
    house.ready(&project).await.unwrap();
    let ask = house.ask("POST", &format!("/api/projects/{project}/vm/command")).token(&house.ann);
    let ask = ask.header("accept", "text/event-stream").json(&json!({"command": "wait"}));
    let mut blocks = Blocks::of(ask.open().await);
    assert_eq!(blocks.next().await.unwrap(), "retry: 1000");
    // Its id comes before any output, for a client that loses the stream.
    let began = blocks.next().await.unwrap();
    assert!(began.starts_with("event: command\ndata: {\"command_id\":\"cmd_"), "{began}");
    house.app.vm.write("one ");
    let first = blocks.next().await.unwrap();
    let data: Value = serde_json::from_str(first.strip_prefix("event: output\ndata: ").unwrap()).unwrap();
    assert_eq!(data, json!({"stream": "stdout", "data": "one ", "offset": 0}));
    house.app.vm.write("two");
    assert!(blocks.next().await.unwrap().contains("\"data\":\"two\",\"offset\":4"));
    house.app.vm.end(3);
    let last = blocks.next().await.unwrap();
    let data: Value = serde_json::from_str(last.strip_prefix("event: exit\ndata: ").unwrap()).unwrap();
    assert_eq!(
        (data["command"]["status"].as_str(), data["command"]["exit_code"].as_i64()),
        (Some("exited"), Some(3))
    );
    assert_eq!(blocks.next().await, None);
}

#[tokio::test]
async fn a_command_is_checked_before_anything_runs() {
    let house = house().await;
    let command = format!("/api/projects/{}/vm/command", house.project().await);
    let field = async |body: Value| house.post(&command, &body).await.field().to_owned();
    assert_eq!(field(json!({"command": " "})).await, "command");
    assert_eq!(field(json!({"command": "a", "timeout_secs": -1})).await, "timeout_secs");
    assert_eq!(field(json!({"command": "a", "timeout_secs": 90_000})).await, "timeout_secs");
    assert_eq!(field(json!({"command": "a", "user": "bob"})).await, "user");
    assert_eq!(field(json!({"command": "a", "wait_secs": 26})).await, "wait_secs");
    assert_eq!(field(json!({"command": "a", "env": {"A-B": "1"}})).await, "env");
}

#[tokio::test]
async fn a_set_up_is_asked_for_once_and_an_end_without_a_vm_is_no_news() {
    let house = house().await;
    let vm = format!("/api/projects/{}/vm", house.project().await);
    let one = house.ask("POST", &format!("{vm}/setup")).token(&house.ann).send().await;
    let two = house.post(&format!("{vm}/setup"), &json!({})).await;
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (202, 202));
    assert_eq!(one.body["operation_id"], two.body["operation_id"]);
    let fresh = format!("/api/projects/{}/vm", house.project().await);
    let ended = house.ask("DELETE", &fresh).token(&house.ann).send().await;
    assert_eq!((ended.status.as_u16(), ended.body["vm_status"].as_str()), (200, Some("none")));
    let unknown = house.post(&format!("{fresh}/setup"), &json!({"x": 1})).await;
    assert_eq!(unknown.field(), "x");
}

/// A command that was claimed for the VM of [`House::ready`] so many hours ago.
async fn claimed(house: &House, project: &str, hours_ago: i64) -> Command {
    let mut command = Command {
        project_id: project.parse().unwrap(),
        command_id: System.new_id(),
        spec: CommandSpec::new("say hello"),
        status: CommandStatus::Running,
        epoch: Some(1),
        kill_requested: false,
        exit_code: None,
        signal: None,
        stdout: KeptOutput::default(),
        stderr: KeptOutput::default(),
        duration_ms: None,
        created_at: System.now() - jiff::SignedDuration::from_hours(hours_ago),
        finished_at: None,
        version: 0,
    };
    house.app.store.commit(Tx::new().create(&mut command)).await.unwrap();
    command
}

#[tokio::test]
async fn a_command_that_its_journal_may_have_forgotten_is_never_started_again() {
    let house = house().await;
    let project = house.project().await;
    house.ready(&project).await.unwrap();
    let commands = format!("/api/projects/{project}/vm/commands");
    // One whose start was never heard of is started by whoever looks.
    let young = claimed(&house, &project, 23).await;
    let seen = house.get(&format!("{commands}/{}", young.command_id)).await;
    assert_eq!((seen.body["status"].as_str(), seen.body["stdout"].as_str()), (Some("exited"), Some("hello")));
    // An old one may have run, ended, and been forgotten with its journal's record.
    for hours in [24, 8 * 24] {
        let old = claimed(&house, &project, hours).await;
        house.app.vm.forget();
        let seen = house.get(&format!("{commands}/{}", old.command_id)).await;
        assert_eq!(seen.body["status"], "lost", "{}", seen.body);
        let killed =
            house.ask("DELETE", &format!("{commands}/{}", old.command_id)).token(&house.ann).send().await;
        assert_eq!(killed.body["status"], "lost", "{}", killed.body);
        assert!(!house.app.vm.has_started(old.command_id.as_str()));
    }
}

#[tokio::test]
async fn what_a_command_installed_is_noted_for_the_next_vm() {
    let house = house().await;
    let project = house.project().await;
    house.ready(&project).await.unwrap();
    let command = format!("/api/projects/{project}/vm/command");
    for body in [
        json!({"command": "pip install flask", "working_dir": "/tmp"}),
        json!({"command": "pip install -r requirements.txt"}),
        json!({"command": "pip install numpy", "env": {"VIRTUAL_ENV": "/workspace/venv"}}),
        json!({"command": "echo pip install nothing"}),
    ] {
        house.post(&command, &body).await;
    }
    // Not of one that failed.
    let waits =
        house.post(&command, &json!({"command": "wait && pip install never", "background": true})).await;
    house.app.vm.end(1);
    house.get(&format!("{command}s/{}", waits.text("command_id"))).await;
    let recipe = recipe::load(&house.app.store, &project.parse().unwrap()).await.unwrap();
    let noted: Vec<_> =
        recipe.installs.iter().map(|step| (step.command.as_str(), step.working_dir.as_str())).collect();
    assert_eq!(noted, [("pip install flask", "/"), ("pip install -r requirements.txt", "/workspace")]);
}
