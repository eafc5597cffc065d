//! What only the sandbox server may ask for: `/init`, connections into the sandbox, its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use pvm_e2b_wire::ENVD_VERSION;
use pvm_e2b_wire::envd_http::InitRequest;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, interval, sleep, timeout};

use crate::daemon::Daemon;
use crate::http::request::{query, read_body};
use crate::http::{Request, Response, empty, reply};
use crate::log;
use crate::process::spawn;
use crate::router::Origin;

/// Bytes of a control request; a CA bundle is the largest part of one.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How long connecting to a port inside may take; it is on the same machine.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// Bytes buffered per direction of a connection into the sandbox.
const BUFFER: usize = 64 * 1024;
/// How often the deadline is looked at.
const TICK: Duration = Duration::from_secs(5);
/// How many looks past the deadline end the daemon. Looks, not time: a frozen sandbox does not look, so waking
/// up late is not an end, and the server has a minute of running time to move the deadline.
const LOOKS: u32 = 12;
/// Longest grace of a shutdown.
const MAX_GRACE: Duration = Duration::from_mins(1);
/// Where a sandbox keeps the certificates it trusts.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Serves a method of `/pvm.Control/`.
pub async fn serve(daemon: &Arc<Daemon>, method: &str, request: Request) -> Response {
    let result = match method {
        "Dial" => dial(daemon, request).await,
        "Timeout" => set_deadline(daemon, request).await,
        "Shutdown" => shutdown(daemon, request).await,
        "Status" => Ok(reply::json(StatusCode::OK, &status(daemon))),
        _ => Err((StatusCode::NOT_FOUND, "pvm.Control has no such method".to_owned())),
    };
    result.unwrap_or_else(|(status, message)| reply::error_reply(status, &message))
}

type Refusal = (StatusCode, String);

async fn body<T: serde::de::DeserializeOwned>(daemon: &Daemon, request: Request) -> Result<T, Refusal> {
    let (body, _reserved) = read_body(&daemon.buffers, request.into_body(), MAX_BODY)
        .await
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let text = if body.is_empty() { b"{}".as_slice() } else { &body };
    serde_json::from_slice(text)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("invalid request body: {error}")))
}

/// Serves `POST /init`. From outside it is refused: whoever calls first would set the token.
pub async fn init(daemon: &Arc<Daemon>, request: Request, origin: Origin) -> Response {
    if origin == Origin::Data {
        return reply::error_reply(StatusCode::FORBIDDEN, "/init is reserved for the sandbox server");
    }
    let request: InitRequest = match body(daemon, request).await {
        Ok(request) => request,
        Err((status, message)) => return reply::error_reply(status, &message),
    };
    match apply_init(daemon, request, origin == Origin::Control).await {
        Ok(()) => {
            let mut response = reply::no_content();
            response.headers_mut().insert("x-envd-version", HeaderValue::from_static(ENVD_VERSION));
            response
        }
        Err(error) => reply::error_reply(StatusCode::UNAUTHORIZED, &error.to_string()),
    }
}

/// Applies an `/init`, certificates included.
///
/// # Errors
/// As [`Daemon::init`].
pub async fn apply_init(
    daemon: &Arc<Daemon>,
    mut request: InitRequest,
    trusted: bool,
) -> Result<(), crate::daemon::InitError> {
    let bundle = request.ca_bundle.take();
    daemon.init(request, trusted)?;
    // Alone, the files are the host's, whose trust is not ours to change.
    if let Some(bundle) = bundle.filter(|bundle| daemon.settings.in_sandbox && !bundle.trim().is_empty()) {
        let stored = tokio::task::spawn_blocking(move || trust(Path::new(CA_BUNDLE), &bundle)).await;
        if let Err(error) = stored.map_err(io::Error::other).flatten() {
            log::warn("certificates were not added", json!({"error": error.to_string()}));
        }
    }
    Ok(())
}

/// Appends certificates to a bundle unless they are in it.
fn trust(bundle: &Path, certificates: &str) -> io::Result<()> {
    let mut text = match std::fs::read_to_string(bundle) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let certificates = certificates.trim();
    if text.contains(certificates) {
        return Ok(());
    }
    if let Some(parent) = bundle.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(certificates);
    text.push('\n');
    // Replaced whole, so that nobody reads half a bundle.
    let temporary = bundle.with_extension("crt.tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, bundle)
}

#[derive(Debug, Default, Deserialize)]
struct Dial {
    port: Option<u16>,
}

/// Connects to a port inside and turns the request's connection into that one.
async fn dial(daemon: &Arc<Daemon>, mut request: Request) -> Result<Response, Refusal> {
    let bad = |message: &str| (StatusCode::BAD_REQUEST, message.to_owned());
    if !request.headers().contains_key(UPGRADE) {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "Dial needs `Connection: Upgrade` and `Upgrade: tcp`".into(),
        ));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let port = match query(request.uri(), "port") {
        Some(text) => text.parse().ok(),
        None => body::<Dial>(daemon, request).await?.port,
    };
    let port = port.filter(|port| *port != 0).ok_or_else(|| bad("port must be 1 to 65535"))?;
    let mut inside = connect(port)
        .await
        .map_err(|error| (StatusCode::BAD_GATEWAY, format!("port {port} is not open: {error}")))?;
    tokio::spawn(async move {
        if let Ok(outside) = upgrade.await {
            let mut outside = TokioIo::new(outside);
            // Either side may break off at any time.
            copy_bidirectional_with_sizes(&mut outside, &mut inside, BUFFER, BUFFER).await.ok();
        }
    });
    let mut response = reply::with_body(StatusCode::SWITCHING_PROTOCOLS, empty());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
    Ok(response)
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let attempt = async {
        match TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(stream),
            // A server may listen on the newer loopback only. The first error is the one to tell.
            Err(error) => TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error),
        }
    };
    let stream =
        timeout(DIAL_LIMIT, attempt).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    pid: u32,
    boot_id: &'a str,
    processes: usize,
    runs: usize,
    uptime_ms: u64,
}

fn status(daemon: &Daemon) -> Status<'_> {
    Status {
        pid: std::process::id(),
        boot_id: &daemon.settings.boot_id,
        processes: daemon.processes.running().len(),
        runs: daemon.journal.running().len(),
        uptime_ms: u64::try_from(daemon.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// When the sandbox's time is over, as far as the server has told.
#[derive(Debug, Default)]
pub struct Deadline {
    /// Unix milliseconds; 0 for none.
    end: AtomicI64,
    overdue: AtomicU32,
}

impl Deadline {
    /// Sets the end; `None` for none.
    pub fn set(&self, end_at_unix_ms: Option<i64>) {
        self.end.store(end_at_unix_ms.unwrap_or(0).max(0), Ordering::Release);
        self.overdue.store(0, Ordering::Release);
    }

    /// Looks once; whether the end is due and nobody came for long enough.
    fn look(&self, now: Timestamp) -> bool {
        let end = self.end.load(Ordering::Acquire);
        if end == 0 || now.as_millisecond() < end {
            self.overdue.store(0, Ordering::Release);
            return false;
        }
        self.overdue.fetch_add(1, Ordering::AcqRel) + 1 >= LOOKS
    }
}

/// Returns when the sandbox's time is over and no server came back to say otherwise.
pub async fn wait_for_deadline(daemon: Arc<Daemon>) {
    let mut ticks = interval(TICK);
    // After a pause, looks are not made up for.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if daemon.deadline.look(Timestamp::now()) {
            log::warn("the sandbox's time is over and no server came back", json!({}));
            return;
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Timeout {
    end_at_unix_ms: Option<i64>,
}

async fn set_deadline(daemon: &Arc<Daemon>, request: Request) -> Result<Response, Refusal> {
    let question: Timeout = body(daemon, request).await?;
    daemon.deadline.set(question.end_at_unix_ms);
    Ok(reply::no_content())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shutdown {
    grace_ms: u64,
}

/// Ends everything, writes the disk out, answers, and ends the daemon.
async fn shutdown(daemon: &Arc<Daemon>, request: Request) -> Result<Response, Refusal> {
    let question: Shutdown = body(daemon, request).await?;
    let grace = Duration::from_millis(question.grace_ms).min(MAX_GRACE);
    signal_all(daemon, Signal::TERM);
    let deadline = Instant::now() + grace;
    while anything_left(daemon) && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    signal_all(daemon, Signal::KILL);
    while anything_left(daemon) && Instant::now() < deadline + Duration::from_secs(2) {
        sleep(Duration::from_millis(5)).await;
    }
    tokio::task::spawn_blocking(rustix::fs::sync).await.ok();
    log::info("shutting down", json!({}));
    tokio::spawn(async {
        // The answer goes out first.
        sleep(Duration::from_millis(50)).await;
        exit();
    });
    Ok(reply::no_content())
}

/// Ends the daemon, and with it the sandbox.
#[expect(clippy::exit, reason = "as PID 1, exiting is how a sandbox ends")]
pub fn exit() {
    std::process::exit(0);
}

fn signal_all(daemon: &Daemon, signal: Signal) {
    if daemon.settings.in_sandbox {
        for pid in other_processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                rustix::process::kill_process(pid, signal).ok();
            }
        }
        return;
    }
    for process in daemon.processes.running() {
        process.signal(signal);
    }
    for run in daemon.journal.running() {
        spawn::signal_group(run.pid, signal).ok();
    }
}

fn anything_left(daemon: &Daemon) -> bool {
    if daemon.settings.in_sandbox {
        !other_processes().is_empty()
    } else {
        !daemon.processes.running().is_empty() || !daemon.journal.running().is_empty()
    }
}

/// Every process of the sandbox but this one.
fn other_processes() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_ends_only_after_looks_enough() {
        let deadline = Deadline::default();
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert!(!deadline.look(at(1_000_000)), "none is set");
        deadline.set(Some(1000));
        assert!(!deadline.look(at(999)));
        for _ in 1..LOOKS {
            assert!(!deadline.look(at(2000)));
        }
        assert!(deadline.look(at(2000)));
    }

    #[test]
    fn a_server_that_comes_back_moves_the_deadline() {
        let deadline = Deadline::default();
        deadline.set(Some(1000));
        for _ in 1..LOOKS {
            deadline.look(Timestamp::from_millisecond(2000).unwrap());
        }
        deadline.set(Some(5000));
        assert!(!deadline.look(Timestamp::from_millisecond(2000).unwrap()));
        deadline.set(None);
        assert!(!deadline.look(Timestamp::from_millisecond(9000).unwrap()));
    }

    #[test]
    fn certificates_are_added_once() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("certs/ca.crt");
        trust(&bundle, "ONE\n").unwrap();
        trust(&bundle, "TWO").unwrap();
        trust(&bundle, "ONE").unwrap();
        assert_eq!(std::fs::read_to_string(bundle).unwrap(), "ONE\nTWO\n");
    }
}
