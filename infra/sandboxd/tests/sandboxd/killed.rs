//! The real program, ended by `kill -9`: what runs in the sandboxes goes on, and the next server takes it over.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::lab::{self, KEY, Lab, eventually};

/// What stands before the program so that it ends with the thread that started it, even when that is killed.
pub(crate) const WITH_THIS_TEST: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// The program on a state folder, killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Program {
    pub(crate) fn start(state: &Path) -> Self {
        Self::start_as(&WITH_THIS_TEST, state, |_| {})
    }

    /// Starts it by way of another program, with further options. It should end with [`WITH_THIS_TEST`].
    pub(crate) fn start_as(before: &[&str], state: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(before[0]);
        command
            .args(&before[1..])
            .arg(env!("CARGO_BIN_EXE_pvm-sandboxd"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--build-base",
                "false",
                "--on-stop",
                "kill",
                "--api-keys",
                KEY,
            ])
            .arg("--state")
            .arg(state);
        change(&mut command);
        let mut child = command
            .env("PVM_LOG_FORMAT", "json")
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .inspect(|line| said.push(line.clone()))
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).ok()?;
                let fields = line.get("fields").unwrap_or(&line);
                fields.get("address")?.as_str()?.parse().ok()
            })
            .unwrap_or_else(|| panic!("the program ended without saying where it listens: {said:#?}"));
        // Read on, so that the program never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_survives_a_killed_server_and_its_output_is_found_again() {
    let folder = lab::folder().await;
    let state = folder.path().join("state");
    let mut program = Program::start(&state);
    let lab = Lab::at(program.address);
    let sandbox = lab.create_with(serde_json::json!({"metadata": {"name": "mine"}})).await;
    let frozen = lab.create().await;
    lab.sh(&frozen, "echo kept > /workspace/file").await.ok();
    let path = format!("/sandboxes/{}/pause", frozen.sandbox_id);
    lab.must(204, "POST", &path, serde_json::Value::Null).await;
    let snapshot = format!("/sandboxes/{}/snapshots", sandbox.sandbox_id);
    let snapshot = lab.must(201, "POST", &snapshot, serde_json::json!({"name": "kept"})).await.json();
    let script = "for i in $(seq 1 200); do echo line $i; sleep 0.02; done; until [ -e /tmp/go ]; do sleep 0.02; done; echo end";
    let pid = lab.spawn(&sandbox, "user", script).await;
    program.kill();

    let program = Program::start(&state);
    let lab = Lab::at(program.address);
    assert_eq!(lab.state_of(&sandbox).await, "running");
    assert_eq!(lab.state_of(&frozen).await, "paused");
    let detail = format!("/sandboxes/{}", sandbox.sandbox_id);
    let detail = lab.must(200, "GET", &detail, serde_json::Value::Null).await.json();
    assert_eq!(detail["metadata"]["name"], "mine");
    lab.sh(&sandbox, "touch /tmp/go").await.ok();
    let output = lab.connect_process(&sandbox, pid).await;
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!((lines.first(), lines.last(), lines.len()), (Some(&"line 1"), Some(&"end"), 201));
    assert_eq!(output.exit, Some(0));
    let connect = format!("/v2/sandboxes/{}/connect", frozen.sandbox_id);
    lab.must(201, "POST", &connect, serde_json::json!({"timeout": 60})).await;
    assert_eq!(lab.sh(&frozen, "cat /workspace/file").await.ok(), "kept");
    let copy = lab.create_with(serde_json::json!({"templateID": snapshot["snapshotID"]})).await;
    assert_eq!(lab.sh(&copy, "echo copied").await.ok(), "copied");
    for sandbox in [&sandbox, &frozen, &copy] {
        lab.kill(sandbox).await;
    }
    let sandboxes = state.join("sandboxes");
    eventually("nothing is left", async || std::fs::read_dir(&sandboxes).unwrap().count() == 0).await;
    end(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_again_and_again_loses_and_leaks_nothing() {
    let folder = lab::folder().await;
    let state = folder.path().join("state");
    let mut program = Program::start(&state);
    let lab = Lab::at(program.address);
    let kept = lab.create().await;
    for round in 0..5 {
        let lab = Lab::at(program.address);
        // Requests under way when the server dies: whatever becomes of them, nothing of them may be left half.
        let under_way: Vec<_> = (0..4)
            .map(|_| {
                let lab = Lab::at(program.address);
                tokio::spawn(async move {
                    let body =
                        serde_json::json!({"templateID": "host", "timeout": 600, "metadata": {"a": "b"}});
                    lab.try_call("POST", "/v2/sandboxes", body).await
                })
            })
            .collect();
        assert_eq!(
            lab.sh(&kept, &format!("echo {round} >> /tmp/rounds; wc -l < /tmp/rounds")).await.ok(),
            (round + 1).to_string()
        );
        program.kill();
        for request in under_way {
            request.await.unwrap();
        }
        program = Program::start(&state);
    }
    let lab = Lab::at(program.address);
    let listed = lab.must(200, "GET", "/v2/sandboxes", serde_json::Value::Null).await.json();
    for row in listed.as_array().unwrap() {
        let id = row["sandboxID"].as_str().unwrap();
        lab.must(204, "DELETE", &format!("/sandboxes/{id}"), serde_json::Value::Null).await;
    }
    let sandboxes = state.join("sandboxes");
    eventually("nothing is left", async || std::fs::read_dir(&sandboxes).unwrap().count() == 0).await;
    end(program);
    let instance: String = serde_json::from_slice(&std::fs::read(state.join("instance")).unwrap()).unwrap();
    let groups = walkdir::WalkDir::new("/sys/fs/cgroup")
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().contains(&instance))
        .count();
    assert_eq!(groups, 0, "no control group is left");
}

/// Stops a program in order and waits for it.
pub(crate) fn end(mut program: Program) {
    let pid = rustix::process::Pid::from_raw(program.child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(program.child.wait().unwrap().success());
}
