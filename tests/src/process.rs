//! The real program as a process of its own, to be killed and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::api::Api;

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

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    home: PathBuf,
    ports: [u16; 3],
}

/// Three ports that are free now.
pub fn free_ports() -> [u16; 3] {
    let taken = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    taken.map(|listener| listener.local_addr().unwrap().port())
}

/// `pvm <verb>` with its state in `home`.
pub fn command(home: &Path, ports: [u16; 3], verb: &str) -> Command {
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
    /// Starts it and waits until it answers.
    pub async fn start(home: &Path, ports: [u16; 3]) -> Self {
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

    /// A client with the first key.
    pub fn api(&self) -> Api {
        let key = std::fs::read_to_string(self.home.join("api-key")).unwrap();
        Api::new(&format!("http://127.0.0.1:{}", self.ports[0]), key.trim())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Signals it and waits for its end.
    pub async fn ended(mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().await.unwrap();
    }
}

/// No mount and no process of the stack is left behind.
pub fn assert_nothing_left(folder: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder), "a mount is left");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&environ).contains(folder),
            "process {} is left",
            entry.file_name().display()
        );
    }
}
