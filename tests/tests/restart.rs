//! The real program, killed with SIGKILL in the middle of a run and started again: nothing is lost, nothing runs twice.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pvm_tests::api::{Api, assert_gap_free};
use pvm_tests::scenarios::conversations::of_type;
use serde_json::json;
use tokio::process::{Child, Command};

/// The program that this build made beside the test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("pvm");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bin pvm` first (make test does)",
        path.display()
    );
    path
}

struct Process {
    child: Child,
    home: PathBuf,
    ports: [u16; 3],
}

fn free_ports() -> [u16; 3] {
    let taken = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    taken.map(|listener| listener.local_addr().unwrap().port())
}

fn command(home: &Path, ports: [u16; 3], verb: &str) -> Command {
    let mut command = Command::new(program());
    command
        .arg(verb)
        .env("PVM_HOME", home)
        .env("PVM_HTTP_ADDR", format!("127.0.0.1:{}", ports[0]))
        .env("PVM_E2B_ADDR", format!("127.0.0.1:{}", ports[1]))
        .env("PVM_S3_ADDR", format!("127.0.0.1:{}", ports[2]))
        .env("PVM_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

impl Process {
    async fn start(home: &Path, ports: [u16; 3]) -> Self {
        let child = command(home, ports, "serve").spawn().unwrap();
        let mut process = Self { child, home: home.to_owned(), ports };
        let health = format!("http://127.0.0.1:{}/healthz", ports[0]);
        for _ in 0..600 {
            if reqwest::get(&health).await.is_ok_and(|answer| answer.status().is_success()) {
                return process;
            }
            assert!(process.child.try_wait().unwrap().is_none(), "the program ended at once");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the program did not answer");
    }

    fn api(&self) -> Api {
        let key = std::fs::read_to_string(self.home.join("api-key")).unwrap();
        Api::new(&format!("http://127.0.0.1:{}", self.ports[0]), key.trim())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    async fn ended(mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().await.unwrap();
    }
}

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

/// No mount and no process of the stack is left behind.
fn assert_nothing_left(folder: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder), "a mount is left");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&environ).contains(folder),
            "process {:?} is left",
            entry.file_name()
        );
    }
}
