//! Measures a sandbox server in this process over loopback HTTP, and in the same run what container tools of this
//! machine need for the same, so that the figures can be read as ratios.
//!
//! Needs root. `--quick` makes fewer rounds.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod client;
mod peers;
mod samples;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use client::Client;
use http::{Method, StatusCode};
use pvm_sandboxd::{Config, Server, Shutdown, StaticKeys};
use samples::Samples;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const KEY: &str = "e2b_bench";
/// Bytes of the file that is sent and fetched.
const FILE_BYTES: usize = 256 * 1024 * 1024;
/// Sandboxes of the crowd.
const CROWD: usize = 200;
/// Median of the rounds, in milliseconds.
const PYTHON: &str = "
import statistics, sys, time
from e2b import Sandbox
times = []
for _ in range(int(sys.argv[1]) + 1):
    start = time.perf_counter()
    sandbox = Sandbox.create(sys.argv[2], timeout=60)
    sandbox.commands.run('true')
    times.append((time.perf_counter() - start) * 1000)
    sandbox.kill()
print(statistics.median(times[1:]))
";

/// Benchmarks of the sandbox server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Template to use.
    #[arg(long, default_value = "base")]
    template: String,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let rounds = if arguments.quick { 20 } else { 100 };
    let state = std::env::temp_dir().join(format!("pvm-bench-{}", std::process::id()));
    let mut config = Config::new(&state);
    config.listen.set_port(0);
    config.authenticate = Arc::new(StaticKeys::new([(KEY, "bench")]));
    let server = Server::start(config).await?;
    let address = server.address();
    let result = Bench { address, state: state.clone(), rounds, template: arguments.template }.run().await;
    server.shutdown(Shutdown::KillAll).await;
    std::fs::remove_dir_all(&state)?;
    result
}

struct Bench {
    address: std::net::SocketAddr,
    state: PathBuf,
    rounds: usize,
    template: String,
}

impl Bench {
    async fn run(&self) -> Result<(), Failure> {
        let mut client = Client::connect(self.address).await?;
        println!("medians of {} rounds, in ms (p95 in brackets); template {}", self.rounds, self.template);
        let create = self.create_to_first_command(&mut client).await?;
        let exec = self.exec(&mut client).await?;
        self.pause_and_resume(&mut client).await?;
        self.files(&mut client).await?;
        self.terminal(&mut client).await?;
        self.crowd(&mut client).await?;
        self.python_sdk(&mut client).await?;
        peers::compare(create, exec)
    }

    async fn create_to_first_command(&self, client: &mut Client) -> Result<f64, Failure> {
        let (mut create, mut first, mut kill) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..self.rounds {
            let start = Instant::now();
            let sandbox = client.create(&self.template).await?;
            create.add(start.elapsed());
            client.run_true(&sandbox).await?;
            first.add(start.elapsed());
            let start = Instant::now();
            client.kill(&sandbox).await?;
            kill.add(start.elapsed());
            // What is prepared between two creates is prepared between two users' creates as well.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        create.print("create");
        first.print("create -> first command finished");
        kill.print("kill");
        Ok(first.median())
    }

    async fn exec(&self, client: &mut Client) -> Result<f64, Failure> {
        let sandbox = client.create(&self.template).await?;
        let mut exec = Samples::default();
        for _ in 0..self.rounds {
            let start = Instant::now();
            client.run_true(&sandbox).await?;
            exec.add(start.elapsed());
        }
        exec.print("exec true, warm");
        client.kill(&sandbox).await?;
        Ok(exec.median())
    }

    async fn pause_and_resume(&self, client: &mut Client) -> Result<(), Failure> {
        let sandbox = client.create(&self.template).await?;
        let (mut pause, mut resume) = (Samples::default(), Samples::default());
        for _ in 0..self.rounds {
            let path = format!("/sandboxes/{}/pause", sandbox.sandbox_id);
            let start = Instant::now();
            client.call(Method::POST, &path, "{}", StatusCode::NO_CONTENT).await?;
            pause.add(start.elapsed());
            let path = format!("/v2/sandboxes/{}/connect", sandbox.sandbox_id);
            let start = Instant::now();
            client.call(Method::POST, &path, r#"{"timeout":300}"#, StatusCode::CREATED).await?;
            resume.add(start.elapsed());
        }
        pause.print("pause (frozen)");
        resume.print("resume");
        client.kill(&sandbox).await
    }

    async fn files(&self, client: &mut Client) -> Result<(), Failure> {
        let sandbox = client.create(&self.template).await?;
        let contents = Bytes::from(vec![7_u8; FILE_BYTES]);
        let folder = std::env::temp_dir().join(format!("pvm-bench-cp-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("a"), &contents)?;
        let (mut copy, mut upload, mut download) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..3 {
            let start = Instant::now();
            std::fs::copy(folder.join("a"), folder.join("b"))?;
            copy.add(start.elapsed());
            let start = Instant::now();
            // A large upload ends its connection.
            Client::connect(self.address).await?.upload(&sandbox, contents.clone()).await?;
            upload.add(start.elapsed());
            let start = Instant::now();
            client.download(&sandbox).await?;
            download.add(start.elapsed());
        }
        std::fs::remove_dir_all(&folder)?;
        copy.print("cp of 256 MiB");
        upload.print_against("upload of 256 MiB", copy.median());
        download.print_against("download of 256 MiB", copy.median());
        client.kill(&sandbox).await
    }

    /// A character typed until it is seen again.
    async fn terminal(&self, client: &mut Client) -> Result<(), Failure> {
        let sandbox = client.create(&self.template).await?;
        let mut listener = Client::connect(self.address).await?;
        let mut terminal = listener.terminal(&sandbox).await?;
        let mut echo = Samples::default();
        for _ in 0..self.rounds {
            let start = Instant::now();
            client.type_in(&sandbox, &terminal, b"x").await?;
            terminal.next().await?;
            echo.add(start.elapsed());
        }
        echo.print("PTY echo");
        client.kill(&sandbox).await
    }

    /// The same as the first figure, through E2B's Python SDK where `PVM_BENCH_PYTHON` names a Python that has it.
    async fn python_sdk(&self, _client: &mut Client) -> Result<(), Failure> {
        let name = "create -> first command, Python SDK";
        let Some(python) = std::env::var_os("PVM_BENCH_PYTHON") else {
            println!("  {name:<40}         -   PVM_BENCH_PYTHON names no Python with e2b");
            return Ok(());
        };
        let url = format!("http://{}", self.address);
        let output = tokio::process::Command::new(python)
            .args(["-c", PYTHON, &self.rounds.to_string(), &self.template])
            .env("E2B_API_URL", &url)
            .env("E2B_SANDBOX_URL", &url)
            .env("E2B_API_KEY", KEY)
            .output()
            .await?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let median: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
        println!("  {name:<40} {median:9.2}");
        Ok(())
    }

    /// Median of the memory of all sandboxes, in megabytes. A machine with other work does not disturb it.
    fn memory_of_groups(&self) -> Result<f64, Failure> {
        let instance: String = serde_json::from_slice(&std::fs::read(self.state.join("instance"))?)?;
        let mut groups = group_memory(&instance);
        groups.sort_by(f64::total_cmp);
        Ok(groups.get(groups.len() / 2).ok_or("no control groups")? / 1024.0 / 1024.0)
    }

    async fn crowd(&self, client: &mut Client) -> Result<(), Failure> {
        // Page cache is given back under pressure; what counts is what is not.
        let before = available_memory()?;
        let start = Instant::now();
        let mut sandboxes = Vec::with_capacity(CROWD);
        for _ in 0..CROWD {
            sandboxes.push(client.create(&self.template).await?);
        }
        let elapsed = start.elapsed();
        let used = before.saturating_sub(available_memory()?);
        println!("  {:<40} {:9.2}", format!("{CROWD} sandboxes"), elapsed.as_secs_f64() * 1000.0);
        println!(
            "  {:<40} {:9.2} MB",
            "memory of each, as the machine has less",
            used as f64 / 1024.0 / CROWD as f64
        );
        println!("  {:<40} {:9.2} MB", "memory of each, as its group counts", self.memory_of_groups()?);
        let start = Instant::now();
        for sandbox in &sandboxes {
            client.kill(sandbox).await?;
        }
        println!("  {:<40} {:9.2}", format!("killing {CROWD}"), start.elapsed().as_secs_f64() * 1000.0);
        Ok(())
    }
}

/// Bytes that each of a server's control groups counts, its kernel memory included.
fn group_memory(instance: &str) -> Vec<f64> {
    let own = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().filter_map(Result::ok);
    own.filter(|entry| entry.path().parent().and_then(Path::file_name).is_some_and(|name| name == instance))
        .filter_map(|entry| {
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
            read("memory.current").or_else(|| read("memory.usage_in_bytes"))?.trim().parse::<f64>().ok()
        })
        .collect()
}

/// Kilobytes that programs could still use.
fn available_memory() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).ok_or("no MemAvailable")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
