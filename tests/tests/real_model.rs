//! A conversation with a real language model, whose tool call really happens in a sandbox, over both wires that llama.cpp's
//! server speaks. `make test-real-model` builds the server and runs this.
//!
//! The model is one of the smallest there are. It proves wire and loop, not wits: a line in between narrows the grammar of
//! its first answer to a call of one of two commands, leaves of each text what it can grasp, asks for the likeliest words
//! only, and takes the tools away for the second answer. Shapes are asserted, no words.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use pvm_entry::settings::Secret;
use pvm_tests::api::{Api, assert_gap_free};
use pvm_tests::scenarios::conversations::{finished, of_type};
use pvm_tests::stack::with_stack_of;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// The template under which this model makes calls, by llama.cpp's own collection.
const TEMPLATE: &str = "CohereForAI-c4ai-command-r-plus-tool_use.jinja";
/// What the model may choose from; each leaves the same proof.
const COMMANDS: [&str; 2] = ["echo agent-ok > proof.txt", "echo agent-ok | tee proof.txt"];

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test-real-model`"))
}

/// The model's server.
struct Llama {
    _process: Child,
    url: String,
}

impl Llama {
    async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        // One thread: several wait for each other on a machine that does other things too.
        let mut process = Command::new(variable("PVM_TEST_LLAMA_SERVER"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "-t", "1", "-np", "1", "-c", "8192"])
            .args(["--jinja", "--no-webui", "--model", &variable("PVM_TEST_LLAMA_MODEL")])
            .args(["--chat-template-file", &format!("{}/{TEMPLATE}", variable("PVM_TEST_LLAMA_TEMPLATES"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("llama-server can be started");
        let url = format!("http://127.0.0.1:{port}");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        loop {
            if client.get(format!("{url}/health")).send().await.is_ok_and(|answer| answer.status() == 200) {
                return Self { _process: process, url };
            }
            assert!(process.try_wait().unwrap().is_none(), "llama-server ended at once");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The line between us and the server.
#[derive(Clone)]
struct Line {
    to: String,
    client: reqwest::Client,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Line {
    async fn start(to: &str) -> (SocketAddr, Self) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let line = Self { to: to.to_owned(), client, asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(carry).with_state(line.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, line)
    }
}

async fn carry(State(line): State<Line>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    line.asked.lock().unwrap().push(path.clone());
    let bytes = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let mut onward = line.client.request(method, format!("{}{path}", line.to));
    // Questions about the model have no body.
    if !bytes.is_empty() {
        let mut body: Value = serde_json::from_slice(&bytes).unwrap();
        narrow(&mut body, path == "/v1/messages");
        onward = onward.json(&body);
    }
    let answer = onward.send().await.unwrap();
    let mut response = Response::builder().status(answer.status().as_u16());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    response.body(Body::from_stream(answer.bytes_stream())).unwrap()
}

/// Narrows what the model reads and may answer; the request's shape stays as we sent it.
fn narrow(body: &mut Value, is_anthropic: bool) {
    // The likeliest word each time: the same answer in every run.
    body["temperature"] = json!(0);
    let text = body["messages"].to_string();
    if text.contains("\"tool_result\"") || text.contains("\"role\":\"tool\"") {
        let fields = body.as_object_mut().unwrap();
        fields.remove("tools");
        return;
    }
    let (texts, tool) = if is_anthropic {
        // The state of the workspace is a block of its own behind the user's text.
        body["messages"][0]["content"].as_array_mut().unwrap().truncate(1);
        (&["/system/0/text"][..], "/tools/0")
    } else {
        (&["/messages/0/content", "/messages/1/content"][..], "/tools/0/function")
    };
    for text in texts {
        shorten(body.pointer_mut(text).unwrap(), "\n");
    }
    let tool = body.pointer_mut(tool).unwrap();
    shorten(&mut tool["description"], ". ");
    let schema = &mut tool[if is_anthropic { "input_schema" } else { "parameters" }];
    *schema = json!({
        "type": "object",
        "properties": {"command": {"type": "string", "enum": COMMANDS}},
        "required": ["command"],
    });
    if is_anthropic {
        body["tool_choice"] = json!({"type": "any"});
    } else {
        body["tool_choice"] = json!("required");
        body["parallel_tool_calls"] = json!(false);
    }
}

/// Leaves of a text what stands before `end`.
fn shorten(text: &mut Value, end: &str) {
    let whole = text.as_str().unwrap();
    *text = json!(whole.split(end).next().unwrap());
}

async fn converse(api: Api, model: &'static str) {
    let agent = json!({
        "agent_id": "small",
        "description": "Writes the proof.",
        "model": model,
        "system_prompt": "You write agent-ok into proof.txt.",
        "tools": ["execute_command"],
        "max_tokens": 120,
    });
    api.post("/api/agents", agent).await.expect(201);
    let project = api.project("a real model").await;
    let (path, events) = finished(&api, &project, &["small"], "Write agent-ok into proof.txt.").await;
    assert_gap_free(&events);
    let end = &of_type(&events, "run.finished")[0]["data"];
    assert_eq!(end["outcome"], "completed", "{events:#?}");
    let calls = of_type(&events, "tool.finished");
    assert_eq!(calls.len(), 1, "{events:#?}");
    assert_eq!(api.shell(&project, "cat proof.txt").await, "agent-ok\n", "the call really happened");
    let said = of_type(&events, "message.completed");
    assert!(said.len() >= 2, "the model spoke again after its call: {events:#?}");
    let used = &end["usage"];
    assert!(used["input_tokens"].as_u64().is_some_and(|tokens| tokens > 100), "{end}");
    assert!(used["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{end}");
    assert_eq!(api.get(&path).await.expect(200)["status"], "idle");
}

async fn over(model: &'static str, path: &str) {
    let llama = Llama::start().await;
    let (address, line) = Line::start(&llama.url).await;
    let change = move |settings: &mut pvm_entry::Settings| {
        settings.openai_base_url = Some(format!("http://{address}/v1"));
        settings.anthropic_base_url = Some(format!("http://{address}"));
        settings.anthropic_api_key = Some(Secret::new("none-needed"));
    };
    with_stack_of(change, async move |api: Api| converse(api, model).await).await;
    let mut asked = line.asked.lock().unwrap().clone();
    // How long a context the model has is asked before.
    asked.retain(|it| !it.starts_with("/v1/models"));
    assert!(asked.len() >= 2 && asked.iter().all(|it| it == path), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_call_of_a_real_model_happens_over_chat_completions() {
    over("openai/smollm2", "/v1/chat/completions").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_call_of_a_real_model_happens_over_anthropic_messages() {
    over("anthropic/smollm2", "/v1/messages").await;
}
