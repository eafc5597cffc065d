//! Large uploads, whose bytes go past the server's own memory.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Method, StatusCode};
use pvm_e2b_wire::control::Sandbox;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::lab::{Answer, Lab};

/// A length that is no multiple of anything.
const LENGTH: usize = 9 * 1024 * 1024 + 4_321;

/// Bytes that compress badly and differ at every place.
fn contents(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length).collect()
}

fn digest(data: &[u8]) -> String {
    hex::encode(Sha256::digest(data))
}

async fn upload(lab: &Lab, sandbox: &Sandbox, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let mut request = Lab::request(sandbox, 49983, Method::POST, path, body);
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    lab.send(request).await
}

const RAW: (&str, &str) = ("content-type", "application/octet-stream");

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_arrives_as_it_was_sent() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let sent = contents(LENGTH);
    let look = "sha256sum /tmp/a/b/large | cut -c1-64; stat -c '%s %U %a' /tmp/a/b/large";
    let expected = format!("{}\n{LENGTH} user 644", digest(&sent));

    let headers = [RAW, ("x-metadata-kind", "large"), ("origin", "http://page.example")];
    let answer = upload(&lab, &sandbox, "/files?path=/tmp/a/b/large", &headers, sent.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let told =
        json!([{"name": "large", "path": "/tmp/a/b/large", "type": "file", "metadata": {"kind": "large"}}]);
    assert_eq!(answer.json(), told);
    for (name, value) in
        [("connection", "close"), ("content-type", "application/json"), ("access-control-allow-origin", "*")]
    {
        assert_eq!(answer.headers[name], value, "{name}");
    }
    assert!(!answer.headers.contains_key("upgrade"));
    assert_eq!(lab.sh(&sandbox, look).await.ok(), expected);
    let back = lab.envd(&sandbox, Method::GET, "/files?path=/tmp/a/b/large", "").await;
    assert!(back.body == sent);

    // A shorter one in its place leaves nothing of the longer.
    let shorter = contents(2 * 1024 * 1024);
    let answer = upload(&lab, &sandbox, "/files?path=/tmp/a/b/large", &[RAW], shorter.clone()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(lab.sh(&sandbox, look).await.ok().starts_with(&digest(&shorter)));

    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&sent).unwrap();
    let packed = encoder.finish().unwrap().into();
    let headers = [RAW, ("content-encoding", "gzip")];
    let answer = upload(&lab, &sandbox, "/files?path=/tmp/a/b/large", &headers, packed).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(lab.sh(&sandbox, look).await.ok(), expected);

    let mut form =
        b"--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/tmp/one\"\r\n\r\n".to_vec();
    form.extend_from_slice(&sent);
    form.extend_from_slice(
        b"\r\n--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/tmp/two\"\r\n\r\nsmall\r\n--xyz--\r\n",
    );
    let headers = [("content-type", "multipart/form-data; boundary=xyz")];
    let answer = upload(&lab, &sandbox, "/files", &headers, form.into()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let seen = lab.sh(&sandbox, "sha256sum /tmp/one | cut -c1-64; cat /tmp/two").await;
    assert_eq!(seen.ok(), format!("{}\nsmall", digest(&sent)));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_that_is_refused_says_why_to_a_client_that_still_sends() {
    let lab = Lab::with(|config| config.limits.disk_mb = 16).await;
    let sandbox = lab.create().await;
    let sent = contents(40 * 1024 * 1024);
    for (path, headers, status, text) in [
        ("/files?path=/tmp", vec![RAW], 400, "is a directory"),
        ("/files", vec![RAW], 400, "path query parameter is required"),
        ("/files?path=/tmp/x", vec![("content-type", "text/plain")], 400, "unsupported content type"),
        ("/files?path=/tmp/x&username=nobody-there", vec![RAW], 401, "nobody-there"),
        ("/files?path=/tmp/x", vec![RAW, ("x-access-token", "wrong")], 401, "does not match"),
        ("/files?path=/tmp/x", vec![RAW], 507, "not enough disk space"),
    ] {
        let answer = upload(&lab, &sandbox, path, &headers, sent.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
        assert_eq!(answer.json()["code"], status);
    }
    assert_eq!(lab.sh(&sandbox, "rm -f /tmp/x; echo alive").await.ok(), "alive");
    // The way between the two programs is not one for clients.
    let headers = [RAW, ("connection", "upgrade"), ("upgrade", "pvm-upload"), ("pvm-upload-bytes", "1")];
    let answer = upload(&lab, &sandbox, "/pvm.Upload?path=/tmp/x", &headers, Bytes::new()).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    lab.finish().await;
}

fn head(sandbox: &Sandbox, path: &str, length: usize, more: &str) -> String {
    let token = sandbox.envd_access_token.as_ref().unwrap().expose();
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nE2b-Sandbox-Id: {}\r\nX-Access-Token: {token}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n{more}\r\n",
        sandbox.sandbox_id
    )
}

/// Everything up to the end of the connection.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(Duration::from_mins(1), stream.read_to_string(&mut text)).await.unwrap().ok();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_may_come_in_any_pieces_and_may_ask_before() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let sent = contents(LENGTH);
    let expected = digest(&sent);
    // The head alone, with a few bytes, with more than one look's worth of them.
    for first in [0, 1, 5_000, 600_000] {
        let mut stream = TcpStream::connect(lab.address()).await.unwrap();
        let mut start = head(&sandbox, "/files?path=/tmp/pieces", LENGTH, "").into_bytes();
        start.extend_from_slice(&sent[..first]);
        stream.write_all(&start).await.unwrap();
        for piece in sent[first..].chunks(1_234_567) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            stream.write_all(piece).await.unwrap();
        }
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{first}: {answer}");
        assert_eq!(lab.sh(&sandbox, "sha256sum /tmp/pieces | cut -c1-64").await.ok(), expected, "{first}");
    }
    let mut stream = TcpStream::connect(lab.address()).await.unwrap();
    let start = head(&sandbox, "/files?path=/tmp/asked", LENGTH, "Expect: 100-continue\r\n");
    stream.write_all(start.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&sent).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(lab.sh(&sandbox, "sha256sum /tmp/asked | cut -c1-64").await.ok(), expected);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_uploads_that_break_off_hurt_nobody() {
    let lab = Lab::start().await;
    let (sandbox, other) = (lab.create().await, lab.create().await);
    let sent = contents(LENGTH);
    // Half-open ones, more than there are threads for files.
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(lab.address()).await.unwrap();
        let mut start = head(&sandbox, &format!("/files?path=/tmp/idle{number}"), LENGTH, "").into_bytes();
        start.extend_from_slice(&sent[..100_000]);
        stream.write_all(&start).await.unwrap();
        idle.push(stream);
    }
    let answer = upload(&lab, &sandbox, "/files?path=/tmp/whole", &[RAW], sent.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    idle.truncate(50);
    assert_eq!(lab.sh(&sandbox, "sha256sum /tmp/whole | cut -c1-64").await.ok(), digest(&sent));
    // The sandbox ends in the middle of the others.
    let mut stream = idle.pop().unwrap();
    lab.kill(&sandbox).await;
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("was not found"), "{answer}");
    let answer = upload(&lab, &other, "/files?path=/tmp/whole", &[RAW], sent.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    lab.finish().await;
}
