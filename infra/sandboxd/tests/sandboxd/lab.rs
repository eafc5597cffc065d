//! A server of its own for each test, and a plain HTTP client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::connect::{EnvelopeDecoder, encode_message};
use pvm_e2b_wire::control::Sandbox;
use pvm_e2b_wire::process::{ConnectRequest, ProcessConfig, ProcessEvent, StartRequest, StartResponse};
use pvm_sandboxd::{Cidr, Config, Server, ServerHandle, Shutdown, StaticKeys};
use serde_json::{Value, json};

pub(crate) use crate::leftovers::folder;

/// Key of the owner that tests act as.
pub(crate) const KEY: &str = "e2b_0123456789012345678901234567890123456789";
/// Key of somebody else.
pub(crate) const STRANGER: &str = "e2b_9999999999999999999999999999999999999999";
/// How long something that happens in the background may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with its state folder, or the address of one that runs elsewhere.
pub(crate) struct Lab {
    server: Option<ServerHandle>,
    config: Config,
    // Removed last.
    folder: tempfile::TempDir,
    elsewhere: Option<SocketAddr>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a command did.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) pid: u32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Nothing when the stream ended without an end event.
    pub(crate) exit: Option<i32>,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server whose settings differ from the usual ones.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = folder().await;
        let mut config = Config::new(folder.path().join("state"));
        config.listen.set_port(0);
        config.authenticate = Arc::new(StaticKeys::new([(KEY, "me"), (STRANGER, "stranger")]));
        change(&mut config);
        let server = Server::start(config.clone()).await.unwrap();
        Self { server: Some(server), config, folder, elsewhere: None }
    }

    /// A client of a server that runs by itself and knows [`KEY`].
    pub(crate) fn at(address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path());
        Self { server: None, config, folder, elsewhere: Some(address) }
    }

    /// Lets sandboxes reach this machine's loopback, where tests have their servers.
    pub(crate) fn open_loopback(config: &mut Config) {
        config.egress.allow_cidrs = vec!["127.0.0.0/8".parse::<Cidr>().unwrap()];
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.elsewhere.unwrap_or_else(|| self.server.as_ref().unwrap().address())
    }

    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    /// Stops the server in a way, and starts another one on the same state folder.
    pub(crate) async fn restart(&mut self, mode: Shutdown) {
        self.server.take().unwrap().shutdown(mode).await;
        self.server = Some(Server::start(self.config.clone()).await.unwrap());
    }

    /// Ends the server without any of its clean-up, as far as that is possible in one process.
    pub(crate) async fn crash(&mut self) {
        drop(self.server.take());
        let start = Instant::now();
        // The old server's tasks notice at their next turn.
        self.server = loop {
            match Server::start(self.config.clone()).await {
                Ok(server) => break Some(server),
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
    }

    /// Ends the test's server and checks that nothing is left.
    pub(crate) async fn finish(mut self) {
        self.server.take().unwrap().shutdown(Shutdown::KillAll).await;
        let left: Vec<_> = std::fs::read_dir(self.state().join("sandboxes")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    pub(crate) async fn call_as(&self, key: &str, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address().to_string())
            .header("x-api-key", key)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        self.send(request).await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call_as(KEY, method, path, &body).await
    }

    /// Calls and expects a status.
    pub(crate) async fn must(&self, status: u16, method: &str, path: &str, body: Value) -> Answer {
        let answer = self.call(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer
    }

    /// Calls a server that may go away in the middle.
    pub(crate) async fn try_call(&self, method: &str, path: &str, body: Value) -> Option<StatusCode> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address().to_string())
            .header("x-api-key", KEY)
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let stream = tokio::net::TcpStream::connect(self.address()).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(sender.send_request(request).await.ok()?.status())
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request on a connection of its own and leaves the answer's body to the caller.
    pub(crate) async fn open(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = tokio::net::TcpStream::connect(self.address()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn create(&self) -> Sandbox {
        self.create_with(json!({})).await
    }

    /// Makes a sandbox from `host`, with further fields in the request.
    pub(crate) async fn create_with(&self, fields: Value) -> Sandbox {
        let mut body = json!({"templateID": "host", "timeout": 600});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = self.must(201, "POST", "/v2/sandboxes", body).await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub(crate) async fn kill(&self, sandbox: &Sandbox) {
        self.must(204, "DELETE", &format!("/sandboxes/{}", sandbox.sandbox_id), Value::Null).await;
    }

    pub(crate) async fn state_of(&self, sandbox: &Sandbox) -> String {
        let path = format!("/sandboxes/{}", sandbox.sandbox_id);
        self.must(200, "GET", &path, Value::Null).await.json()["state"].as_str().unwrap().to_owned()
    }

    /// A request for something in a sandbox, with the headers that SDKs send.
    pub(crate) fn request(
        sandbox: &Sandbox,
        port: u16,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("e2b-sandbox-id", &sandbox.sandbox_id)
            .header("e2b-sandbox-port", port);
        if let Some(token) = &sandbox.envd_access_token {
            request = request.header("x-access-token", token.expose());
        }
        request.body(Full::new(body.into())).unwrap()
    }

    pub(crate) async fn envd(
        &self,
        sandbox: &Sandbox,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        self.send(Self::request(sandbox, 49983, method, path, body)).await
    }

    /// Writes a file as the sandbox's default user.
    pub(crate) async fn write(&self, sandbox: &Sandbox, path: &str, contents: impl Into<Bytes>) {
        let mut request =
            Self::request(sandbox, 49983, Method::POST, &format!("/files?path={path}"), contents);
        request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
        let answer = self.send(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }

    /// Runs a Python program as the sandbox's default user, to its end.
    pub(crate) async fn python(&self, sandbox: &Sandbox, program: &'static str) -> Output {
        self.write(sandbox, "/tmp/program.py", program).await;
        self.sh(sandbox, "exec /usr/bin/python3 /tmp/program.py").await
    }

    /// Runs a shell command as the sandbox's default user, to its end.
    pub(crate) async fn sh(&self, sandbox: &Sandbox, script: &str) -> Output {
        self.sh_as(sandbox, "user", script).await
    }

    pub(crate) async fn sh_as(&self, sandbox: &Sandbox, user: &str, script: &str) -> Output {
        self.events(self.start_process(sandbox, user, script).await).await
    }

    /// Starts a command in the background and returns its pid.
    pub(crate) async fn spawn(&self, sandbox: &Sandbox, user: &str, script: &str) -> u32 {
        let mut body = self.start_process(sandbox, user, script).await.into_body();
        let mut decoder = EnvelopeDecoder::default();
        loop {
            let frame = body.frame().await.expect("a start event").unwrap();
            decoder.push(frame.data_ref().unwrap());
            if let Some(envelope) = decoder.next_envelope().unwrap() {
                let response: StartResponse = serde_json::from_slice(&envelope.payload).unwrap();
                return response.event.start.expect("a start event").pid;
            }
        }
    }

    pub(crate) async fn start_process(
        &self,
        sandbox: &Sandbox,
        user: &str,
        script: &str,
    ) -> Response<Incoming> {
        let message = StartRequest {
            process: ProcessConfig {
                cmd: "/bin/bash".into(),
                args: vec!["-c".into(), script.into()],
                ..ProcessConfig::default()
            },
            stdin: Some(false),
            ..StartRequest::default()
        };
        let body = encode_message(&message).unwrap();
        self.open(rpc(sandbox, "/process.Process/Start", user, body)).await
    }

    /// Connects to a running process and reads what it has said and says.
    pub(crate) async fn connect_process(&self, sandbox: &Sandbox, pid: u32) -> Output {
        let message =
            ConnectRequest { process: pvm_e2b_wire::process::ProcessSelector::pid(pid), replay: true };
        let body = encode_message(&message).unwrap();
        let response = self.open(rpc(sandbox, "/process.Process/Connect", "user", body)).await;
        self.events(response).await
    }

    pub(crate) async fn events(&self, response: Response<Incoming>) -> Output {
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let mut decoder = EnvelopeDecoder::default();
        let mut output = Output::default();
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                decoder.push(data);
            }
            while let Some(envelope) = decoder.next_envelope().unwrap() {
                if envelope.is_end() {
                    continue;
                }
                let response: StartResponse = serde_json::from_slice(&envelope.payload).unwrap();
                output.take(response.event);
            }
        }
        output
    }
}

impl Output {
    fn take(&mut self, event: ProcessEvent) {
        if let Some(start) = event.start {
            self.pid = start.pid;
        }
        if let Some(data) = event.data {
            self.stdout.push_str(&String::from_utf8_lossy(data.stdout.as_deref().unwrap_or_default()));
            self.stderr.push_str(&String::from_utf8_lossy(data.stderr.as_deref().unwrap_or_default()));
        }
        if let Some(end) = event.end {
            self.exit = Some(end.exit_code);
        }
    }

    /// The command's output, which must have succeeded.
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.exit, Some(0), "{self:?}");
        self.stdout.trim_end()
    }
}

fn rpc(sandbox: &Sandbox, path: &str, user: &str, body: Bytes) -> Request<Full<Bytes>> {
    use base64::Engine as _;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
    let mut request = Lab::request(sandbox, 49983, Method::POST, path, body);
    request.headers_mut().insert("content-type", "application/connect+json".parse().unwrap());
    request.headers_mut().insert("authorization", format!("Basic {credentials}").parse().unwrap());
    request
}

/// Waits for something that happens in the background.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "it did not happen that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server on this machine's loopback that answers every request with what it saw.
pub(crate) async fn echo_server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                    let headers: Vec<String> = request
                        .headers()
                        .iter()
                        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                        .collect();
                    let text = format!("{} {}\n{}\n", request.method(), request.uri(), headers.join("\n"));
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
                });
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    address
}
