//! How much the orchestration of conversations costs when models answer at once: `bench_conversations [--conversations N]
//! [--tools N] [--waves N]`. A stand-in for a provider answers in the same instant; the tools need no VM. What is left is
//! ours: HTTP, rules, records, events, workflow. Printed per step (a model call or a tool call), beside what the bare
//! call of the stand-in costs in the same run, with the memory of the process after each wave.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench talks to the person at the terminal, and fails by panicking"
)]

use std::time::{Duration, Instant};

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use pvm_entry::Settings;
use pvm_local::{Stack, StackConfig};
use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use serde_json::{Value, json};

/// Bare calls of the stand-in, for the baseline.
const BARE_CALLS: usize = 200;

struct Load {
    conversations: usize,
    tools: usize,
    waves: usize,
}

/// One argument `--name N`.
fn argument(name: &str, default: usize) -> usize {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    words.next().map_or(default, |text| text.parse().unwrap())
}

fn chunk(delta: &Value, finish: &Value) -> String {
    let body = json!({"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta,
        "finish_reason": finish}]});
    format!("data: {body}\n\n")
}

/// Answers with the next tool call, or with a last word where `tools` results are there.
fn answer(request: &Value, tools: usize) -> String {
    let messages = request["messages"].as_array().unwrap();
    let had = messages.iter().filter(|message| message["role"] == "tool").count();
    let mut text = String::new();
    if had < tools {
        // Never the same call three times in a row.
        let (name, arguments) = if had % 2 == 0 {
            ("list_services", "{}".to_owned())
        } else {
            ("service_logs", json!({"name": format!("none-{had}")}).to_string())
        };
        let call = json!({"index": 0, "id": format!("call-{had}"), "type": "function",
            "function": {"name": name, "arguments": arguments}});
        text += &chunk(&json!({"role": "assistant", "content": null, "tool_calls": [call]}), &Value::Null);
        text += &chunk(&json!({}), &json!("tool_calls"));
    } else {
        text += &chunk(&json!({"role": "assistant", "content": "Done."}), &Value::Null);
        text += &chunk(&json!({}), &json!("stop"));
    }
    let usage = json!({"id": "x", "object": "chat.completion.chunk", "choices": [],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}});
    text + &format!("data: {usage}\n\ndata: [DONE]\n\n")
}

async fn provider(tools: usize) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let complete = move |Json(request): Json<Value>| async move {
        ([(CONTENT_TYPE, "text/event-stream")], answer(&request, tools)).into_response()
    };
    let router = Router::new().route("/chat/completions", post(complete));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// One conversation to its end; answers the time by its own events from the run's begin to its end.
async fn converse(api: &Api, project: &str) -> Duration {
    let asked = json!({"agent_ids": ["dev_agent"], "initial_message": "Look at the services."});
    let made = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    let at = |kind: &str| {
        let event = events.iter().find(|event| event["type"] == kind).unwrap();
        event["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let finished = events.iter().find(|event| event["type"] == "run.finished").unwrap();
    assert_eq!(finished["data"]["outcome"], "completed", "{finished}");
    Duration::try_from(at("run.finished").duration_since(at("run.started"))).unwrap()
}

async fn wave(api: &Api, project: &str, conversations: usize) -> (Duration, Vec<Duration>) {
    let began = Instant::now();
    let all = (0..conversations).map(|_| converse(api, project));
    let times: Vec<Duration> = futures::stream::iter(all).buffer_unordered(conversations).collect().await;
    (began.elapsed(), times)
}

/// Median of the bare call, as the provider's client makes it: request, streamed answer, to its end.
async fn bare(api: &Api, url: &str) -> Duration {
    let asked =
        json!({"model": "x", "stream": true, "messages": [{"role": "user", "content": "x".repeat(4000)}]});
    let mut times = Vec::new();
    for _ in 0..BARE_CALLS {
        let began = Instant::now();
        let answer = api.http.post(format!("{url}/chat/completions")).json(&asked).send().await.unwrap();
        answer.bytes().await.unwrap();
        times.push(began.elapsed());
    }
    median(&mut times)
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

#[tokio::main]
async fn main() {
    let load = Load {
        conversations: argument("--conversations", 200),
        tools: argument("--tools", 10),
        waves: argument("--waves", 3),
    };
    let url = provider(load.tools).await;
    let home = tempfile::tempdir().unwrap();
    let provider_url = url.clone();
    let mut settings = Settings::from_lookup(move |name| match name {
        "OPENAI_BASE_URL" => Some(provider_url.clone()),
        "PVM_DEFAULT_MODEL" => Some("openai/instant".to_owned()),
        _ => None,
    })
    .unwrap();
    settings.home = home.path().join("state");
    for addr in [&mut settings.http_addr, &mut settings.e2b_addr, &mut settings.s3_addr] {
        addr.set_port(0);
    }
    let mut config = StackConfig::new(settings);
    config.build_base = false;
    let stack = Stack::start(config).await.unwrap();
    let api = Api::new(&format!("http://{}", stack.http_addr), &stack.api_key);
    let project = api.project("load").await;
    // A model call for each tool call, and one for the last word.
    let steps = u32::try_from(2 * load.tools + 1).unwrap();

    println!("{} conversations at once, {steps} steps each, {} waves", load.conversations, load.waves);
    let base = bare(&api, &url).await;
    println!("{:<60} {:>10}", "baseline: the bare call of the model's stand-in, median", millis(base));
    let mut alone: Vec<Duration> = Vec::new();
    for _ in 0..10 {
        alone.push(converse(&api, &project).await / steps);
    }
    let one = median(&mut alone);
    let ratio = |time: Duration| format!("{:.1}x", time.as_secs_f64() / base.as_secs_f64());
    println!("{:<60} {:>10} {:>8}", "per step, one conversation alone, median", millis(one), ratio(one));
    println!("{:<60} {:>7} MiB", "memory before the waves", resident());
    for number in 1..=load.waves {
        let (took, mut times) = wave(&api, &project, load.conversations).await;
        let all = u32::try_from(load.conversations).unwrap() * steps;
        let share = took / all;
        let waited = median(&mut times) / steps;
        println!(
            "{:<60} {:>10} {:>8}",
            format!("wave {number}: time of the whole wave / all its steps"),
            millis(share),
            ratio(share)
        );
        println!(
            "{:<60} {:>10} {:>8}",
            "  per step as one of them sees it, median",
            millis(waited),
            ratio(waited)
        );
        println!("{:<60} {:>7} MiB", "  memory after it", resident());
    }
    stack.shutdown(Shutdown::KillAll).await.unwrap();
}
