//! A bridge for MCP clients that only speak stdio: every line of JSON is a request to a project's server over HTTP, and
//! what comes back goes out as lines. Both eras of the protocol pass: what the HTTP transport wants in headers is taken
//! from the messages.

mod events;
mod lines;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use events::Events;
use lines::Line;

/// Where the version is in a message of the stateless era.
const VERSION_META: &str = "io.modelcontextprotocol/protocolVersion";
/// Tries of a request whose answer was lost. Tool calls carry a key by which the server knows a repetition.
const TRIES: u32 = 3;
/// How long requests under way may go on after the client closed its side.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// The answer to a message that is longer than the server takes.
const TOO_LONG: &str = "The message has more than 6 MiB, and nothing was done. Send less at once: write a large file in \
    parts, with append.";

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
    let (out, mut answers) = mpsc::channel::<String>(64);
    let writer = tokio::spawn(async move {
        while let Some(line) = answers.recv().await {
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
    while let Some(line) = lines::next(&mut input).await? {
        read(&shared, &mut tasks, line).await;
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

async fn read(shared: &Arc<Shared>, tasks: &mut tokio::task::JoinSet<()>, line: Line) {
    match line {
        Line::Whole(text) if text.trim_ascii().is_empty() => {}
        Line::Whole(text) => match serde_json::from_slice::<Value>(&text) {
            Ok(message) => accept(shared, tasks, message).await,
            Err(error) => {
                shared.say(failure(&Value::Null, -32700, &format!("This is not JSON: {error}"))).await;
            }
        },
        Line::TooLong(Some(id)) => shared.say(failure(&id, -32600, TOO_LONG)).await,
        // Nobody waits for an answer to it.
        Line::TooLong(None) => {}
    }
}

async fn accept(shared: &Arc<Shared>, tasks: &mut tokio::task::JoinSet<()>, message: Value) {
    let method = message["method"].as_str().unwrap_or_default();
    if method == "notifications/cancelled" {
        let id = message["params"]["requestId"].to_string();
        if let Some(task) = shared.take(&id) {
            // Ending the request is how the newest HTTP transport cancels. In the older ones it means nothing, and behind
            // a gateway nobody sees it: so the server is told as well, by the call's key.
            task.abort();
            tasks.spawn(shared.clone().exchange(message));
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
            return self.pass_events(response, id.as_ref()).await;
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

    /// The key of the call with this id, in JSON. Ids are any text, and two of them must never make one key.
    fn key_of(&self, id: &str) -> String {
        let hash = hex::encode(Sha256::digest(id));
        format!("{:032x}-{}", self.nonce, &hash[..32])
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
        let call = match method {
            "tools/call" => message.get("id"),
            "notifications/cancelled" => params.get("requestId"),
            _ => None,
        };
        if let Some(id) = call {
            put("idempotency-key", &self.key_of(&id.to_string()));
        }
        headers
    }

    /// Passes the messages of an event stream on as they come. The stream of a request ends with its answer.
    async fn pass_events(&self, response: reqwest::Response, id: Option<&Value>) -> Result<(), String> {
        let mut pieces = response.bytes_stream();
        let mut events = Events::default();
        let mut is_answered = id.is_none();
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(_) if is_answered => break,
                Err(error) => return Err(format!("The answer broke off: {}", error.without_url())),
            };
            for message in events.take(&piece) {
                is_answered |= message.get("method").is_none() && message.get("id") == id;
                self.say(message).await;
            }
        }
        if is_answered { Ok(()) } else { Err("The answer broke off: its stream ended before it.".to_owned()) }
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

#[cfg(test)]
mod tests;
