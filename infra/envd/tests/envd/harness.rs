//! A daemon as a process on loopback, and a client that speaks just enough to drive it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::connect::{self, EnvelopeDecoder};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};

/// A running daemon; ends with the test.
pub(crate) struct Envd {
    child: Child,
    pub(crate) address: SocketAddr,
    /// A folder for the test, which has the journal in `runs` and the control socket in `control.sock`.
    pub(crate) folder: PathBuf,
    owned: Option<tempfile::TempDir>,
}

impl Envd {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut envd = Self::start_in(folder.path().to_owned());
        envd.owned = Some(folder);
        envd
    }

    pub(crate) fn start_in(folder: PathBuf) -> Self {
        let control = folder.join("control.sock");
        std::fs::remove_file(&control).ok();
        let mut child = Command::new(env!("CARGO_BIN_EXE_envd"))
            .args(["--listen", "127.0.0.1:0", "--root-journal"])
            .arg(folder.join("runs"))
            .arg("--control-socket")
            .arg(control)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("listening on ").expect("the daemon did not start").parse().unwrap();
        Self { child, address, folder, owned: None }
    }

    /// Ends the daemon the hard way and returns its folder.
    pub(crate) fn kill(mut self) -> (PathBuf, Option<tempfile::TempDir>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.folder.clone(), self.owned.take())
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        send_over(TokioIo::new(stream), request).await
    }

    pub(crate) async fn send_control(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = UnixStream::connect(self.folder.join("control.sock")).await.unwrap();
        send_over(TokioIo::new(stream), request).await
    }

    /// A plain request: status, headers, body.
    pub(crate) async fn http(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        Answer::read(self.send(request(method, uri, headers, body)).await).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.http(Method::GET, uri, &[], "").await
    }

    /// A unary call that must succeed.
    pub(crate) async fn call(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_call(path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    pub(crate) async fn try_call(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let headers = [("content-type", "application/json"), ("connect-protocol-version", "1")];
        let answer = self.http(Method::POST, path, &headers, body.to_string()).await;
        (answer.status, answer.json())
    }

    /// The error code of a unary call that must fail.
    pub(crate) async fn error_code(&self, path: &str, body: Value) -> String {
        let (status, answer) = self.try_call(path, body).await;
        assert_ne!(status, StatusCode::OK, "{path} succeeded: {answer}");
        answer["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn stream(&self, path: &str, body: Value) -> Messages {
        self.stream_with(path, body, &[]).await
    }

    pub(crate) async fn stream_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Messages {
        let mut all = vec![("content-type", "application/connect+json")];
        all.extend_from_slice(headers);
        let frame = connect::encode(0, body.to_string().as_bytes());
        let response = self.send(request(Method::POST, path, &all, frame)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/connect+json");
        Messages { body: response.into_body(), decoder: EnvelopeDecoder::default() }
    }

    /// Starts a shell command and returns its stream past the start message, and its pid.
    pub(crate) async fn shell(&self, script: &str) -> (Messages, u64) {
        let process = json!({"cmd": "/bin/sh", "args": ["-c", script]});
        let mut messages =
            self.stream("/process.Process/Start", json!({"process": process, "stdin": false})).await;
        let pid = messages.started().await;
        (messages, pid)
    }
}

impl Drop for Envd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn request(
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

async fn send_over<T>(io: TokioIo<T>, request: Request<Full<Bytes>>) -> Response<Incoming>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    T: Send + 'static,
{
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The messages of a stream.
pub(crate) struct Messages {
    body: Incoming,
    decoder: EnvelopeDecoder,
}

impl Messages {
    /// The next message, or the end frame's object as `{"end": ...}`.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            if let Some(envelope) = self.decoder.next_envelope().unwrap() {
                let value: Value = serde_json::from_slice(&envelope.payload).unwrap();
                return if envelope.is_end() { json!({"end": value}) } else { value };
            }
            let frame = self.body.frame().await.expect("the stream ended without an end frame").unwrap();
            self.decoder.push(&frame.into_data().unwrap());
        }
    }

    pub(crate) async fn started(&mut self) -> u64 {
        let message = self.next().await;
        message["event"]["start"]["pid"].as_u64().unwrap_or_else(|| panic!("no start: {message}"))
    }

    /// Reads until this text stands in the output.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut output = String::new();
        while !output.contains(text) {
            let message = self.next().await;
            let data = &message["event"]["data"];
            assert!(data.is_object(), "looking for {text:?} in {output:?}, got {message}");
            for stream in ["stdout", "stderr", "pty"] {
                output.push_str(&String::from_utf8_lossy(&decode(&data[stream])));
            }
        }
        output
    }

    /// Reads to the end of a process: standard output (or terminal), standard error, and the end event.
    pub(crate) async fn finish(&mut self) -> (Vec<u8>, Vec<u8>, Value) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let message = self.next().await;
            let event = &message["event"];
            if let Some(end) = event.get("end") {
                assert_eq!(self.next().await, json!({"end": {}}));
                return (stdout, stderr, end.clone());
            }
            let data = event.get("data").unwrap_or_else(|| panic!("unexpected {message}"));
            stdout.extend(decode(&data["stdout"]));
            stdout.extend(decode(&data["pty"]));
            stderr.extend(decode(&data["stderr"]));
        }
    }
}

pub(crate) fn encode(data: impl AsRef<[u8]>) -> String {
    STANDARD.encode(data)
}

pub(crate) fn decode(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

pub(crate) fn is_alive(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// Waits for something that is about to happen, and fails after a time that is long for any machine.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
