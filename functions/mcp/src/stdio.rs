//! A bridge for MCP clients that only speak stdio: every line of JSON is a request to a project's server over HTTP, and
//! what comes back goes out as lines. Both eras of the protocol pass: what the HTTP transport wants in headers is taken
//! from the messages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Where the version is in a message of the stateless era.
const VERSION_META: &str = "io.modelcontextprotocol/protocolVersion";
/// Tries of a request whose answer was lost. Tool calls carry a key by which the server knows a repetition.
const TRIES: u32 = 3;
/// How long requests under way may go on after the client closed its side.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// The longest line, in bytes: what the server takes.
const LINE_BYTES: usize = 6 * 1024 * 1024;

/// The server that the bridge speaks to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    client: reqwest::Client,
    url: String,
    headers: HeaderMap,
}

impl Endpoint {
    /// The MCP server of `project` at the API's `url`.
    ///
    /// # Errors
    /// A sentence that says what cannot be used.
    pub fn new(url: &str, key: &str, project: &str) -> Result<Self, String> {
        let mut token = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| "PVM_API_KEY has characters that no header can carry".to_owned())?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, token);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let url = format!("{}/api/projects/{}/mcp", url.trim().trim_end_matches('/'), project.trim());
        reqwest::Url::parse(&url).map_err(|error| format!("PVM_URL is not a URL: {error}"))?;
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|error| format!("HTTP cannot be used: {error}"))?;
        Ok(Self { client, url, headers })
    }
}

/// What requests share.
struct Shared {
    endpoint: Endpoint,
    out: mpsc::Sender<String>,
    /// The version that an `initialize` agreed on.
    agreed: Mutex<Option<String>>,
    /// Requests under way, by id.
    under_way: Mutex<HashMap<String, AbortHandle>>,
    /// Makes the keys of this process' calls different from those of any other.
    nonce: u128,
}

/// Bridges until `input` ends.
///
/// # Errors
/// When `input` or `output` cannot be used.
pub async fn run<R, W>(endpoint: Endpoint, input: R, mut output: W) -> std::io::Result<()>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (out, mut lines) = mpsc::channel::<String>(64);
    let writer = tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            output.write_all(line.as_bytes()).await?;
            output.write_all(b"\n").await?;
            output.flush().await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let shared = Arc::new(Shared {
        endpoint,
        out,
        agreed: Mutex::default(),
        under_way: Mutex::default(),
        nonce: nonce(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    let mut input = input;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).await? == 0 {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Value>(text) {
            Ok(_) if text.len() > LINE_BYTES => {
                shared.say(failure(&Value::Null, -32600, "The message is longer than 6 MiB.")).await;
            }
            Ok(message) => accept(&shared, &mut tasks, message).await,
            Err(error) => {
                shared.say(failure(&Value::Null, -32700, &format!("This is not JSON: {error}"))).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    let rest = async { while tasks.join_next().await.is_some() {} };
    // Whoever closed its side early does not wait for long tools.
    drop(tokio::time::timeout(LAST_ANSWERS, rest).await);
    tasks.shutdown().await;
    drop(shared);
    writer.await.map_err(std::io::Error::other)?
}

fn nonce() -> u128 {
    use std::hash::{BuildHasher, Hasher};
    let half = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    (u128::from(half()) << 64) | u128::from(half())
}

async fn accept(shared: &Arc<Shared>, tasks: &mut tokio::task::JoinSet<()>, message: Value) {
    let method = message["method"].as_str().unwrap_or_default();
    if method == "notifications/cancelled" {
        let id = message["params"]["requestId"].to_string();
        if let Some(task) = shared.take(&id) {
            // Ending the request is how the HTTP transport cancels.
            task.abort();
        }
        return;
    }
    if method.is_empty() {
        // An answer to a request of the server's, which a stateless server never makes.
        return;
    }
    if method == "initialize" {
        // What comes next needs the version that this agrees on.
        shared.clone().exchange(message).await;
        return;
    }
    let id = message.get("id").map(Value::to_string);
    let work = shared.clone().exchange(message);
    let task = tasks.spawn(work);
    if let Some(id) = id {
        shared.keep(id, task);
    }
}

impl Shared {
    async fn say(&self, message: Value) {
        // The writer ends only with the bridge.
        drop(self.out.send(message.to_string()).await);
    }

    fn keep(&self, id: String, task: AbortHandle) {
        if let Ok(mut all) = self.under_way.lock() {
            all.retain(|_, task| !task.is_finished());
            all.insert(id, task);
        }
    }

    fn take(&self, id: &str) -> Option<AbortHandle> {
        self.under_way.lock().ok()?.remove(id)
    }

    /// One message there, and what comes back.
    async fn exchange(self: Arc<Self>, message: Value) {
        let id = message.get("id").cloned();
        let asks_version = message["method"] == "initialize";
        if let Err(text) = self.try_exchange(&message, asks_version).await
            && let Some(id) = id
        {
            self.say(failure(&id, -32000, &text)).await;
        }
    }

    async fn try_exchange(&self, message: &Value, asks_version: bool) -> Result<(), String> {
        let response = self.send(message).await?;
        let status = response.status();
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let id = message.get("id").cloned();
        if kind.starts_with("text/event-stream") {
            return self.pass_events(response).await;
        }
        let body = response.bytes().await.map_err(|error| format!("The answer broke off: {error}"))?;
        let Some(id) = id else { return Ok(()) };
        match serde_json::from_slice::<Value>(&body) {
            Ok(mut answer) if answer.get("jsonrpc").is_some() => {
                if answer.get("id").is_none_or(Value::is_null) {
                    answer["id"] = id;
                }
                if asks_version
                    && let Some(version) = answer["result"]["protocolVersion"].as_str()
                    && let Ok(mut agreed) = self.agreed.lock()
                {
                    *agreed = Some(version.to_owned());
                }
                self.say(answer).await;
                Ok(())
            }
            Ok(problem) => {
                let detail = problem["detail"].as_str().or_else(|| problem["message"].as_str()).unwrap_or("");
                Err(format!("The server answered {status}. {detail}"))
            }
            Err(_) => {
                let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
                Err(format!("The server answered {status}. {text}"))
            }
        }
    }

    async fn send(&self, message: &Value) -> Result<reqwest::Response, String> {
        let headers = self.headers(message);
        let body = message.to_string();
        let mut tries = 0;
        loop {
            tries += 1;
            let request =
                self.endpoint.client.post(&self.endpoint.url).headers(headers.clone()).body(body.clone());
            let outcome = request.send().await;
            let passing = match &outcome {
                Ok(response) => matches!(response.status().as_u16(), 502..=504),
                Err(error) => error.is_connect() || error.is_request(),
            };
            if !passing || tries == TRIES {
                return outcome
                    .map_err(|error| format!("The server cannot be reached: {}", error.without_url()));
            }
            tokio::time::sleep(Duration::from_millis(300) * tries).await;
        }
    }

    fn headers(&self, message: &Value) -> HeaderMap {
        let mut headers = self.endpoint.headers.clone();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(&header_text(value)) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        let params = &message["params"];
        let named = params["_meta"][VERSION_META].as_str();
        let agreed = self.agreed.lock().ok().and_then(|agreed| agreed.clone());
        if let Some(version) = named.or(agreed.as_deref()) {
            put("mcp-protocol-version", version);
        }
        let method = message["method"].as_str().unwrap_or_default();
        if named.is_some() {
            put("mcp-method", method);
            let name = match method {
                "tools/call" | "prompts/get" => params["name"].as_str(),
                "resources/read" => params["uri"].as_str(),
                "tasks/get" | "tasks/update" | "tasks/cancel" => params["taskId"].as_str(),
                _ => None,
            };
            if let Some(name) = name {
                put("mcp-name", name);
            }
        }
        if let (Some(id), "tools/call") = (message.get("id"), method) {
            put("idempotency-key", &format!("{:032x}-{}", self.nonce, header_key(&id.to_string())));
        }
        headers
    }

    /// Passes the messages of an event stream on as they come.
    async fn pass_events(&self, response: reqwest::Response) -> Result<(), String> {
        let mut pieces = response.bytes_stream();
        let mut events = Events::default();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| format!("The answer broke off: {}", error.without_url()))?;
            for message in events.take(&piece) {
                self.say(message).await;
            }
        }
        Ok(())
    }
}

fn failure(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// A value as a header carries it: as it is, or in base64 with its mark where a header could not.
fn header_text(value: &str) -> String {
    let plain = value.bytes().all(|b| (0x20..0x7f).contains(&b)) && value.trim() == value;
    if plain && !value.starts_with("=?base64?") {
        value.to_owned()
    } else {
        format!("=?base64?{}?=", STANDARD.encode(value))
    }
}

/// A request's id as part of a key.
fn header_key(id: &str) -> String {
    id.bytes().filter(u8::is_ascii_alphanumeric).take(64).map(char::from).collect()
}

/// Reads the messages out of an event stream, whatever pieces it comes in.
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    fn take(&mut self, piece: &[u8]) -> Vec<Value> {
        let mut found = Vec::new();
        for byte in piece {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                found.extend(serde_json::from_slice::<Value>(&std::mem::take(&mut self.data)).ok());
            } else if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_any_pieces() {
        let stream =
            b"id: 1\nretry: 3\ndata:\n\n: comment\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata: {\"b\":2}\n\n";
        for size in [1, 7, 100] {
            let mut events = Events::default();
            let found: Vec<Value> = stream.chunks(size).flat_map(|piece| events.take(piece)).collect();
            assert_eq!(found, [json!({"a": 1}), json!({"b": 2})], "pieces of {size}");
        }
    }

    #[test]
    fn headers_carry_any_name() {
        assert_eq!(header_text("read_file"), "read_file");
        assert_eq!(header_text("é"), "=?base64?w6k=?=");
        assert_eq!(header_text(" x"), "=?base64?IHg=?=");
        assert!(header_text("=?base64?x?=").starts_with("=?base64?PT9i"));
    }

    fn shared() -> Shared {
        let (out, _) = mpsc::channel(1);
        Shared {
            endpoint: Endpoint::new("http://127.0.0.1:1/", "key", "prj_x").unwrap(),
            out,
            agreed: Mutex::new(Some("2025-11-25".to_owned())),
            under_way: Mutex::default(),
            nonce: 7,
        }
    }

    #[test]
    fn the_headers_of_each_era_come_from_the_message() {
        let shared = shared();
        let old = shared.headers(&json!({"id": 1, "method": "tools/call", "params": {"name": "x"}}));
        assert_eq!(old["mcp-protocol-version"], "2025-11-25");
        assert!(old.get("mcp-method").is_none());
        assert_eq!(old["idempotency-key"], format!("{:032x}-1", 7));
        let new = json!({"id": 2, "method": "resources/read",
                         "params": {"uri": "pvm://status", "_meta": {VERSION_META: "2026-07-28"}}});
        let new = shared.headers(&new);
        assert_eq!(new["mcp-protocol-version"], "2026-07-28");
        assert_eq!(new["mcp-method"], "resources/read");
        assert_eq!(new["mcp-name"], "pvm://status");
        assert_eq!(shared.endpoint.url, "http://127.0.0.1:1/api/projects/prj_x/mcp");
    }

    #[test]
    fn a_bad_address_is_refused_before_the_first_request() {
        assert!(Endpoint::new("not a url", "key", "prj_x").is_err());
        assert!(Endpoint::new("http://h", "bad\nkey", "prj_x").is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_answered_is_told_on_the_line_of_its_id() {
        let endpoint = Endpoint::new("http://127.0.0.1:1", "key", "prj_x").unwrap();
        let input = b"nonsense\n{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"tools/list\"}\n\n".as_slice();
        let (mine, theirs) = tokio::io::duplex(65536);
        run(endpoint, input, theirs).await.unwrap();
        let mut lines = tokio::io::BufReader::new(mine).lines();
        let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(first["error"]["code"], -32700);
        let second: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(second["id"], "a");
        assert!(second["error"]["message"].as_str().unwrap().contains("cannot be reached"), "{second}");
    }
}
