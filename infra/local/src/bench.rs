//! `pvm bench`: the figures of the design, measured through HTTP on a stack of its own. Machines differ and are shared,
//! so every figure is printed as a ratio to a baseline that was measured in the same run, between its rounds.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod files;
mod start;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use pvm_application::vm::lease;
use pvm_domain::ids::ProjectId;
use pvm_domain::limits;
use pvm_domain::vm::VmStatus;
use pvm_entry::Settings;
use pvm_sandboxd::Shutdown;
use serde_json::{Value, json};

use crate::App;
use crate::stack::{Stack, StackConfig};

struct Bench {
    http: reqwest::Client,
    app: Arc<App>,
    door: String,
    door_key: String,
    url: String,
    key: String,
    rounds: usize,
    base: Vec<Duration>,
}

/// Runs all measurements, `rounds` of each.
///
/// # Errors
/// The stack cannot be started, or a measured operation failed.
pub async fn run(rounds: usize) -> anyhow::Result<()> {
    ensure!(rounds >= 5, "at least 5 rounds are needed for a median");
    let home = tempfile::tempdir()?;
    let mut settings = Settings::from_lookup(|_| None)?;
    settings.home = home.path().join("state");
    for addr in [&mut settings.http_addr, &mut settings.e2b_addr, &mut settings.s3_addr] {
        addr.set_port(0);
    }
    let mut config = StackConfig::new(settings);
    config.build_base = false;
    let stack = Stack::start(config).await?;
    let mut bench = Bench {
        http: reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?,
        app: Arc::clone(&stack.app),
        door: format!("http://{}", stack.e2b_addr),
        door_key: stack.e2b_api_key.clone(),
        url: format!("http://{}", stack.http_addr),
        key: stack.api_key.clone(),
        rounds,
        base: Vec::new(),
    };
    println!(
        "baseline: `bash -c true` started on the host itself, measured between the rounds of everything else"
    );
    println!("{:<58} {:>9} {:>9} {:>9}", "figure", "median", "p95", "ratio");
    let measured = bench.all().await;
    stack.shutdown(Shutdown::KillAll).await?;
    measured?;
    println!("{:<58} {:>9}", "baseline: bash -c true on the host", millis(median(&mut bench.base)));
    Ok(())
}

impl Bench {
    async fn all(&mut self) -> anyhow::Result<()> {
        self.starts().await?;
        let project = self.project().await?;
        self.command(&project, "true").await?;
        let path = project.clone();
        self.measure("REST vm/command of `true`, journaled", self.rounds, async |bench| {
            bench.command(&path, "true").await.map(|_| ())
        })
        .await?;
        self.measure("status document, the VM asked or seen in the last 2 s", self.rounds, async |bench| {
            bench.get(&format!("{path}/status")).await.map(|_| ())
        })
        .await?;
        let mut round = 0;
        self.measure("status document, the VM asked each time", self.rounds, async |bench| {
            // A change of the project's VM record makes what was seen before void.
            round += 1;
            bench.touch(&path, round).await?;
            bench.get(&format!("{path}/status")).await.map(|_| ())
        })
        .await?;
        self.resume().await?;
        let upload = vec![7u8; 1024 * 1024];
        let mut count = 0;
        self.measure("upload of 1 MiB until it is in the VM", self.rounds.min(50), async |bench| {
            count += 1;
            bench.upload(&path, &format!("bench/{count}"), upload.clone()).await
        })
        .await?;
        self.measure("project created until its VM is active", self.rounds.min(50), async |bench| {
            let project = bench.project().await?;
            bench.command(&project, "true").await.map(|_| ())
        })
        .await?;
        self.events(&path).await?;
        self.orchestration(&path).await?;
        self.files().await
    }

    async fn measure(
        &mut self,
        name: &str,
        rounds: usize,
        mut work: impl AsyncFnMut(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut times, mut base) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            base.push(baseline().await?);
            let start = Instant::now();
            work(self).await.with_context(|| name.to_owned())?;
            times.push(start.elapsed());
        }
        self.report(name, times, base);
        Ok(())
    }

    fn report(&mut self, name: &str, mut times: Vec<Duration>, mut base: Vec<Duration>) {
        let (middle, unit) = (median(&mut times), median(&mut base));
        let p95 = times[times.len() * 95 / 100];
        let ratio = middle.as_secs_f64() / unit.as_secs_f64();
        println!("{name:<58} {:>9} {:>9} {ratio:>8.2}x", millis(middle), millis(p95));
        self.base.append(&mut base);
    }

    /// Changes the lease's record, without any other effect.
    async fn touch(&self, project: &str, round: u64) -> anyhow::Result<()> {
        let id: ProjectId = project.rsplit('/').next().unwrap_or_default().parse()?;
        lease::change(&self.app.store, &self.app.ambient, &id, |lease| {
            lease.idle_secs = Some(limits::VM_IDLE_SECS + round % 2);
            Ok(true)
        })
        .await?;
        Ok(())
    }

    /// A VM of which only the files were kept, with a service whose own start takes no time: from the first use until
    /// the service is ready again.
    async fn resume(&mut self) -> anyhow::Result<()> {
        let project = self.project().await?;
        self.command(&project, "true").await?;
        let service =
            json!({"name": "bench", "command": "echo up; exec sleep 100000", "ready": {"log_line": "up"}});
        let made = self.post(&format!("{project}/services"), &service).await?;
        ensure!(made["status"] == "running", "{made}");
        let id: ProjectId = project.rsplit('/').next().unwrap_or_default().parse()?;
        let (mut times, mut base) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds.min(20) {
            base.push(baseline().await?);
            let vm =
                self.get(&format!("{project}/status")).await?["vm_id"].as_str().context("no VM")?.to_owned();
            let pause = self.http.post(format!("{}/sandboxes/{vm}/pause", self.door));
            let pause = pause.header("x-api-key", &self.door_key).json(&json!({"memory": false}));
            pause.send().await?.error_for_status()?;
            lease::change(&self.app.store, &self.app.ambient, &id, |lease| {
                lease.finish(VmStatus::Paused, None);
                Ok(true)
            })
            .await?;
            let start = Instant::now();
            self.command(&project, "true").await?;
            while self.get(&format!("{project}/services")).await?["items"][0]["status"] != "running" {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            times.push(start.elapsed());
        }
        self.report("resume of a filesystem-paused VM until its service is ready", times, base);
        Ok(())
    }

    /// From a commit to an SSE client: the time that an event's record says to its arrival here (one clock).
    async fn events(&mut self, project: &str) -> anyhow::Result<()> {
        let (mut times, mut base) = (Vec::new(), Vec::new());
        for round in 0..self.rounds.min(20) {
            base.push(baseline().await?);
            let message = format!("/vm echo {round}; sleep 0.2");
            let conversation = self.converse(project, &message).await?;
            let request = self.http.get(format!("{}{conversation}/events", self.url)).bearer_auth(&self.key);
            let answer = request.header("accept", "text/event-stream").send().await?;
            let mut stream = answer.bytes_stream();
            let mut text = String::new();
            'stream: while let Some(chunk) = stream.next().await {
                text.push_str(&String::from_utf8_lossy(&chunk?));
                while let Some(end) = text.find("\n\n") {
                    let block: String = text.drain(..end + 2).collect();
                    let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) else {
                        continue;
                    };
                    let event: Value = serde_json::from_str(data)?;
                    // What was committed before the stream was open tells of the reader, not of the system.
                    if event["type"] == "tool.finished" {
                        let at: jiff::Timestamp = event["at"].as_str().unwrap_or_default().parse()?;
                        times.push(
                            Duration::try_from(jiff::Timestamp::now().duration_since(at)).unwrap_or_default(),
                        );
                    }
                    if event["type"] == "run.finished" {
                        break 'stream;
                    }
                }
            }
        }
        ensure!(!times.is_empty(), "no event came");
        self.report("event, from its commit to an SSE client", times, base);
        Ok(())
    }

    /// Time of a run beyond its tool's own time, by step (a model call or a tool call).
    async fn orchestration(&mut self, project: &str) -> anyhow::Result<()> {
        const LINES: usize = 10;
        let (mut times, mut base) = (Vec::new(), Vec::new());
        let message = "/vm true\n".repeat(LINES);
        for _ in 0..self.rounds.min(20) {
            base.push(baseline().await?);
            let start = Instant::now();
            let conversation = self.converse(project, &message).await?;
            let mut after = 0;
            loop {
                let page = self.get(&format!("{conversation}/events?after={after}&wait=20")).await?;
                after = page["next_after"].as_u64().unwrap_or(after);
                let ended = page["events"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|e| e["type"] == "run.finished"));
                if ended {
                    break;
                }
            }
            // A model call before and one after the tool calls, which answer at once.
            times.push(start.elapsed() / (LINES as u32 + 2));
        }
        self.report("step of a conversation (model or tool call, all included)", times, base);
        Ok(())
    }

    async fn converse(&self, project: &str, message: &str) -> anyhow::Result<String> {
        let body = json!({"agent_ids": ["dev_agent"], "initial_message": message});
        let made = self.post(&format!("{project}/conversations"), &body).await?;
        let id = made["conversation_id"].as_str().context("no conversation_id")?;
        Ok(format!("{project}/conversations/{id}"))
    }

    async fn project(&self) -> anyhow::Result<String> {
        let made = self.post("/api/projects", &json!({"name": "bench", "auto_setup_vm": true})).await?;
        Ok(format!("/api/projects/{}", made["project_id"].as_str().context("no project_id")?))
    }

    async fn command(&self, project: &str, line: &str) -> anyhow::Result<Value> {
        let done = self.post(&format!("{project}/vm/command"), &json!({"command": line})).await?;
        ensure!(done["exit_code"] == 0, "{line}: {done}");
        Ok(done)
    }

    async fn upload(&self, project: &str, path: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        let request =
            self.http.post(format!("{}{project}/files?path={path}", self.url)).bearer_auth(&self.key);
        let answer = request.header("content-type", "application/octet-stream").body(bytes).send().await?;
        let file: Value = answer.error_for_status()?.json().await?;
        let id = file["file_id"].as_str().context("no file_id")?;
        self.synced(project, id).await
    }

    async fn synced(&self, project: &str, id: &str) -> anyhow::Result<()> {
        while self.get(&format!("{project}/files/{id}")).await?["sync_status"] != "synced" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer =
            self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}

async fn baseline() -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut command = tokio::process::Command::new("bash");
    command.args(["-c", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await?;
    Ok(start.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
