//! Measures a sandbox server in this process over loopback HTTP, and in the same run what container tools of this
//! machine need for the same, so that the figures can be read as ratios.
//!
//! Needs root. `--quick` makes fewer rounds.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::control::Sandbox;
use pvm_sandboxd::{Config, Server, Shutdown, StaticKeys};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const KEY: &str = "e2b_bench";
/// Bytes of the file that is sent and fetched.
const FILE_BYTES: usize = 256 * 1024 * 1024;
/// Sandboxes of the crowd.
const CROWD: usize = 200;

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
    let result = Bench { address: server.address(), rounds, template: arguments.template }.run().await;
    server.shutdown(Shutdown::KillAll).await;
    std::fs::remove_dir_all(&state)?;
    result
}

struct Bench {
    address: std::net::SocketAddr,
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
        self.crowd(&mut client).await?;
        println!("for comparison, run in the same minute:");
        for (name, command, baseline) in [
            ("bwrap, true", bwrap(), create),
            ("docker run --rm, true", docker_run(), create),
            ("docker exec, true", docker_exec(), exec),
            ("unshare -Urpfn, true", unshare(), create),
        ] {
            match command.and_then(|command| time_command(&command, 10)) {
                Some(median) => println!("  {name:<40} {median:9.2}   {:.1} times ours", median / baseline),
                None => println!("  {name:<40}         -   not here"),
            }
        }
        Ok(())
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
            client.upload(&sandbox, contents.clone()).await?;
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
        println!("  {:<40} {:9.2} MB", "memory of each", used as f64 / 1024.0 / CROWD as f64);
        let start = Instant::now();
        for sandbox in &sandboxes {
            client.kill(sandbox).await?;
        }
        println!("  {:<40} {:9.2}", format!("killing {CROWD}"), start.elapsed().as_secs_f64() * 1000.0);
        Ok(())
    }
}

/// A plain HTTP/1.1 client on one connection.
struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Result<Self, Failure> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>, expected: StatusCode) -> Result<Bytes, Failure> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == expected {
            Ok(body)
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: &str,
        expected: StatusCode,
    ) -> Result<Bytes, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header("x-api-key", KEY)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        self.send(request, expected).await
    }

    async fn create(&mut self, template: &str) -> Result<Sandbox, Failure> {
        let body = format!(r#"{{"templateID":"{template}","timeout":600}}"#);
        let answer = self.call(Method::POST, "/v2/sandboxes", &body, StatusCode::CREATED).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    async fn kill(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let path = format!("/sandboxes/{}", sandbox.sandbox_id);
        self.call(Method::DELETE, &path, "", StatusCode::NO_CONTENT).await.map(|_| ())
    }

    fn data(
        sandbox: &Sandbox,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let token = sandbox.envd_access_token.as_ref().map(|token| token.expose()).unwrap_or_default();
        Ok(Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header("e2b-sandbox-id", &sandbox.sandbox_id)
            .header("e2b-sandbox-port", "49983")
            .header("x-access-token", token)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))?)
    }

    async fn run_true(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let message = br#"{"process":{"cmd":"/bin/true","args":[],"envs":{}},"stdin":false}"#;
        let mut envelope = vec![0];
        envelope.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        envelope.extend_from_slice(message);
        let kind = "application/connect+json";
        let request = Self::data(sandbox, Method::POST, "/process.Process/Start", kind, envelope.into())?;
        let events = self.send(request, StatusCode::OK).await?;
        let text = String::from_utf8_lossy(&events);
        if text.contains("\"exited\":true") {
            Ok(())
        } else {
            Err(format!("the command did not end: {text}").into())
        }
    }

    async fn upload(&mut self, sandbox: &Sandbox, contents: Bytes) -> Result<(), Failure> {
        let kind = "application/octet-stream";
        let request = Self::data(sandbox, Method::POST, "/files?path=/tmp/bench", kind, contents)?;
        self.send(request, StatusCode::OK).await.map(|_| ())
    }

    async fn download(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let request = Self::data(sandbox, Method::GET, "/files?path=/tmp/bench", "", Bytes::new())?;
        self.0.ready().await?;
        let mut body = self.0.send_request(request).await?.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame?.data_ref().map_or(0, Bytes::len);
        }
        if received == FILE_BYTES { Ok(()) } else { Err(format!("{received} bytes came back").into()) }
    }
}

/// Measured times, in milliseconds.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }

    fn median(&self) -> f64 {
        self.at(0.5)
    }

    fn print(&self, name: &str) {
        println!("  {name:<40} {:9.2}   ({:.2})", self.median(), self.at(0.95));
    }

    fn print_against(&self, name: &str, baseline: f64) {
        let speed = 100.0 * baseline / self.median();
        println!("  {name:<40} {:9.2}   {speed:.0} % of cp's speed", self.median());
    }
}

/// Kilobytes that programs could still use.
fn available_memory() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).ok_or("no MemAvailable")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

fn time_command(command: &[&str], rounds: usize) -> Option<f64> {
    let mut samples = Samples::default();
    let run = || {
        Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !run() {
        return None;
    }
    for _ in 0..rounds {
        let start = Instant::now();
        if !run() {
            return None;
        }
        samples.add(start.elapsed());
    }
    Some(samples.median())
}

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

fn bwrap() -> Option<Vec<&'static str>> {
    installed("bwrap").then(|| {
        vec!["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
    })
}

fn unshare() -> Option<Vec<&'static str>> {
    installed("unshare").then(|| vec!["unshare", "-U", "-r", "-p", "-f", "-n", "-m", "/bin/true"])
}

/// Only with an engine that runs and an image that is there: nothing is pulled for a comparison.
fn docker_run() -> Option<Vec<&'static str>> {
    docker_image().map(|image| vec!["docker", "run", "--rm", "--network", "none", image, "true"])
}

fn docker_exec() -> Option<Vec<&'static str>> {
    let name = "pvm-bench";
    let image = docker_image()?;
    let running = Command::new("docker")
        .args(["inspect", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    (running && !image.is_empty()).then(|| vec!["docker", "exec", name, "true"])
}

fn docker_image() -> Option<&'static str> {
    if !installed("docker") || !Path::new("/var/run/docker.sock").exists() {
        return None;
    }
    ["debian:bookworm-slim", "debian:bookworm", "busybox", "alpine"].into_iter().find(|image| {
        Command::new("docker")
            .args(["image", "inspect", image])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}
