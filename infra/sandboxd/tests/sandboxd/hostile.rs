//! Clients and tenants that mean harm, or are only slow: nobody else may notice.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Method, StatusCode};
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::control::Sandbox;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::lab::{Lab, eventually};

/// How long somebody else's command may take meanwhile. It takes milliseconds; a blocked server would take for ever.
const PROMPT: Duration = Duration::from_secs(10);

async fn others_are_served(lab: &Lab) {
    let start = Instant::now();
    let other = lab.create().await;
    assert_eq!(lab.sh(&other, "echo fine").await.ok(), "fine");
    lab.kill(&other).await;
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
}

/// The head of a request for a sandbox's daemon, without its end.
fn head(sandbox: &Sandbox, method: &str, path: &str, more: &str) -> String {
    let token = sandbox.envd_access_token.as_ref().unwrap().expose();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nE2b-Sandbox-Id: {}\r\nE2b-Sandbox-Port: 49983\r\n\
         X-Access-Token: {token}\r\n{more}",
        sandbox.sandbox_id
    )
}

async fn connect(lab: &Lab) -> TcpStream {
    TcpStream::connect(lab.address()).await.unwrap()
}

/// Everything up to the end of the connection or of the patience.
async fn read_some(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    tokio::time::timeout(PROMPT, stream.read_to_end(&mut text)).await.ok();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_half_a_thing_hold_nobody_up() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let mut idle = Vec::new();
    for number in 0..300 {
        let mut stream = connect(&lab).await;
        let text = match number % 3 {
            0 => String::new(),
            1 => "POST /v2/sandboxes HT".into(),
            _ => head(&sandbox, "POST", "/files?path=/tmp/half", "Content-Length: 1000000\r\n\r\nhalf"),
        };
        stream.write_all(text.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    others_are_served(&lab).await;
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    drop(idle);
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_announces_too_much_is_refused_before_it_comes() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let mut stream = connect(&lab).await;
    let more =
        "Content-Type: application/connect+json\r\nContent-Length: 4294967300\r\nConnection: close\r\n\r\n";
    stream.write_all(head(&sandbox, "POST", "/process.Process/Start", more).as_bytes()).await.unwrap();
    // Flags, then the largest length there is; the rest never comes, but for what fills the server's first look.
    stream.write_all(&[0, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let filler = vec![b' '; 512 * 1024];
    stream.write_all(&filler).await.ok();
    let answer = read_some(&mut stream).await;
    assert!(answer.contains("resource_exhausted"), "{answer}");
    others_are_served(&lab).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tiny_pieces_make_one_file() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let mut stream = connect(&lab).await;
    stream.set_nodelay(true).unwrap();
    let more =
        "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head(&sandbox, "POST", "/files?path=/tmp/tiny", more).as_bytes()).await.unwrap();
    for _ in 0..1000 {
        stream.write_all("1\r\nx\r\n".repeat(100).as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    // A bound for a hang, not a timing: a debug build on a busy machine takes its time over so many pieces.
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_mins(2), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(lab.sh(&sandbox, "stat -c %s /tmp/tiny").await.ok(), "100000");
    lab.finish().await;
}

/// Compressed zeros: a thousandth of what they become.
fn bomb(megabytes: usize) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..megabytes {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_bomb_fills_neither_memory_nor_disk() {
    let lab = Lab::with(|config| {
        config.limits.disk_mb = 64;
        config.limits.memory_mb = 256;
    })
    .await;
    let sandbox = lab.create().await;
    let bomb = bomb(600);
    let mut upload = Lab::request(&sandbox, 49983, Method::POST, "/files?path=/tmp/bomb", bomb.clone());
    upload.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
    upload.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let answer = lab.send(upload).await;
    assert_eq!(answer.status, StatusCode::INSUFFICIENT_STORAGE, "{}", answer.text());
    let size: u64 = lab.sh(&sandbox, "stat -c %s /tmp/bomb").await.ok().parse().unwrap();
    assert!(size <= 64 << 20, "{size}");

    let mut call = Lab::request(&sandbox, 49983, Method::POST, "/filesystem.Filesystem/Stat", bomb);
    call.headers_mut().insert("content-type", "application/json".parse().unwrap());
    call.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let answer = lab.send(call).await;
    let error: ConnectError = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    lab.sh(&sandbox, "rm -f /tmp/bomb").await;
    eventually("the sandbox works again", async || lab.sh(&sandbox, "echo alive").await.stdout == "alive\n")
        .await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_only_itself_up() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    lab.sh(&sandbox, "head -c 200M /dev/zero > /tmp/large").await.ok();
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&lab).await;
        let text = head(&sandbox, "GET", "/files?path=/tmp/large", "\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        readers.push(stream);
    }
    let unread = lab.start_process(&sandbox, "user", "yes").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    others_are_served(&lab).await;
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    drop((readers, unread));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_lead_nowhere_outside_for_any_part_of_the_server() {
    let lab = Lab::start().await;
    let secret = lab.state().join("host-secret");
    std::fs::write(&secret, "secret").unwrap();
    let before = std::fs::metadata(&secret).unwrap();
    let sandbox = lab.create().await;
    // Links to the host's file by its path, and links in the places that the server itself touches: its folders in
    // the layer, and folders above them.
    let script = format!(
        "cd / && mkdir -p /workspace /var/lib && ln -s {0} /workspace/file && ln -s {1} /workspace/folder && \
         rm -rf /var/lib/pvm && ln -s {1} /var/lib/pvm && ln -sf {0} /etc/hostname && \
         mv /tmp /tmp2 && ln -s {1} /tmp && ln -s /proc/1/root/{0} /workspace/root && true",
        secret.display(),
        lab.state().display()
    );
    lab.sh_as(&sandbox, "root", &script).await.ok();
    for path in ["/workspace/file", "/workspace/folder/host-secret", "/workspace/root", "/etc/hostname"] {
        let answer = lab.envd(&sandbox, Method::GET, &format!("/files?path={path}&username=root"), "").await;
        assert!(
            !answer.text().contains("secret") || !answer.status.is_success(),
            "{path}: {}",
            answer.text()
        );
        let upload = format!("/files?path={path}&username=root");
        let mut upload = Lab::request(&sandbox, 49983, Method::POST, &upload, "overwritten");
        upload.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
        lab.send(upload).await;
    }
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let snapshot = lab.must(201, "POST", &format!("{path}/snapshots"), json!({})).await.json();
    let copy = lab.create_with(json!({"templateID": snapshot["snapshotID"]})).await;
    let seen =
        lab.sh_as(&copy, "root", "grep -rs secret /workspace /etc/hostname; readlink /workspace/file").await;
    assert_eq!(seen.stdout.trim(), secret.to_str().unwrap());
    lab.must(204, "POST", &format!("{path}/pause"), json!({"memory": false})).await;
    lab.must(201, "POST", &format!("{path}/resume"), json!({"timeout": 60})).await;
    assert_eq!(lab.sh_as(&sandbox, "root", "echo alive").await.ok(), "alive");
    lab.kill(&sandbox).await;
    eventually("the remains are removed", async || {
        std::fs::read_dir(lab.state().join("trash")).unwrap().count() == 0
    })
    .await;
    let after = std::fs::metadata(&secret).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!((after.uid(), after.mode(), after.ino()), (before.uid(), before.mode(), before.ino()));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_odd_framing_are_refused_or_end_their_connection() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    for more in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: -1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "X-Long: ",
    ] {
        let mut stream = connect(&lab).await;
        let mut text = head(&sandbox, "POST", "/files?path=/tmp/odd", more);
        if more.ends_with(": ") {
            text.push_str(&"x".repeat(2 << 20));
            text.push_str("\r\n\r\n");
        }
        stream.write_all(text.as_bytes()).await.ok();
        let answer = tokio::time::timeout(PROMPT, async {
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.ok();
            String::from_utf8_lossy(&first).into_owned()
        });
        let answer = answer.await.unwrap_or_default();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{more:?}: {answer}");
    }
    others_are_served(&lab).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_flood_reaches_a_late_reader_within_bounds() {
    let lab = Lab::with(|config| config.limits.memory_mb = 256).await;
    let sandbox = lab.create().await;
    // Nobody reads: the newest output is kept and the oldest gives way, so that the daemon's memory is bounded.
    let flood = "head -c 64M /dev/zero | tr '\\0' x; echo end";
    let mut pids = Vec::new();
    for _ in 0..5 {
        pids.push(lab.spawn(&sandbox, "user", flood).await);
    }
    for pid in pids {
        lab.sh(&sandbox, &format!("while kill -0 {pid} 2>/dev/null; do sleep 0.05; done")).await.ok();
        let output = lab.connect_process(&sandbox, pid).await;
        assert_eq!(output.exit, Some(0));
        assert!(output.stdout.ends_with("xend\n"), "the end is what is kept");
        assert!(output.stdout.len() < 4 << 20, "{} bytes were kept", output.stdout.len());
    }
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    lab.finish().await;
}
