//! The real program with real sandboxes, killed with SIGKILL again and again while conversations are begun and worked
//! off: every message is worked off once, every line runs once, every log is without gaps.
//!
//! When it is killed is drawn by a seed, which is printed; another is taken from `PVM_SEED`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use pvm_tests::api::{Api, assert_gap_free};
use pvm_tests::process::{Process, assert_nothing_left, command, free_ports};
use pvm_tests::scenarios::conversations::of_type;
use serde_json::{Value, json};

/// Conversations that share a VM.
const PER_PROJECT: usize = 5;
/// Conversations that are begun at the same time.
const AT_ONCE: usize = 20;
/// The first runs the lines of the message, the second has the last word.
const AGENTS: [&str; 2] = ["dev_agent", "designer_agent"];

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

/// A request as a client makes it that does not give up: repeated, with the same key, until it is answered.
async fn until_answered(api: &Api, path: &str, body: &Value, key: &str) -> Value {
    loop {
        let request = api.request(reqwest::Method::POST, path).header("idempotency-key", key).json(body);
        if let Ok(answer) = request.send().await {
            let status = answer.status().as_u16();
            if let Ok(body) = answer.json::<Value>().await {
                match status {
                    200..300 => return body,
                    409 | 429 | 500.. => {}
                    _ => panic!("{status}: {body}"),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The lines of a conversation: each tells of each of its starts, and the last of where it was started.
fn message(number: usize) -> String {
    format!(
        "/vm mkdir -p c{number} && cd c{number}\n/vm echo one >> starts; sleep 0.2\n/vm echo two >> starts; sleep 0.5; echo end >> ends\n\
         /vm echo three >> starts; basename $PWD >> where"
    )
}

async fn converse(api: Api, project: String, number: usize) -> String {
    let asked = json!({"agent_ids": AGENTS, "initial_message": message(number)});
    let made =
        until_answered(&api, &format!("{project}/conversations"), &asked, &format!("soak-{number}")).await;
    format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap())
}

async fn check(api: &Api, project: &str, path: &str, number: usize) {
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    assert_gap_free(&events);
    let finished = of_type(&events, "run.finished");
    let outcome = (finished.len(), finished[0]["data"]["outcome"].as_str());
    assert_eq!(outcome, (1, Some("completed")), "{path}: {}", finished[0]);
    assert_eq!(events.last().unwrap()["type"], "run.finished", "{path}");
    for (kind, id) in [
        ("message.completed", "message_id"),
        ("tool.finished", "tool_call_id"),
        ("tool.started", "tool_call_id"),
    ] {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for event in of_type(&events, kind) {
            *seen.entry(event["data"][id].as_str().unwrap()).or_default() += 1;
        }
        assert!(seen.values().all(|count| *count == 1), "{path}: {kind} told twice: {seen:?}");
    }
    for event in of_type(&events, "tool.finished") {
        // The VMs outlive the server: nothing may be lost either.
        assert_eq!(event["data"]["status"], "done", "{path}: {event}");
    }
    assert_eq!(of_type(&events, "tool.finished").len(), 4, "{path}");
    let read = async |file: &str| api.shell(project, &format!("cat c{number}/{file}")).await;
    assert_eq!(read("starts").await, "one\ntwo\nthree\n", "{path}: each line ran once");
    assert_eq!(read("ends").await, "end\n", "{path}: each line ran to its end");
    assert_eq!(read("where").await, format!("c{number}\n"), "{path}: the directory was carried on");
    let shown = api.get(path).await.expect(200);
    assert_eq!(
        (shown["status"].as_str(), shown["message_count"].as_u64()),
        (Some("idle"), Some(5)),
        "{shown}"
    );
    // Two answers of the first agent and one of the second, each counted once however often it was asked for.
    let used = ["turns", "model_calls", "tool_calls"].map(|of| shown["usage"][of].as_u64().unwrap());
    assert_eq!(used, [2, 3, 4], "{shown}");
}

/// Tells something in any case: `eprintln!` is only shown of tests that fail.
fn tell(text: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{text}").unwrap();
}

async fn soak(conversations: usize, kills: usize) {
    let seed = std::env::var("PVM_SEED").map_or(20_260_101, |text| text.parse().unwrap());
    tell(&format!("{conversations} conversations, {kills} kills, seed {seed}"));
    let mut draw = Draw(seed);
    let folder = tempfile::tempdir().unwrap();
    let (home, ports) = (folder.path().join("state"), free_ports());
    let mut process = Process::start(&home, ports).await;
    let api = process.api();
    let mut projects = Vec::new();
    for number in 0..conversations.div_ceil(PER_PROJECT) {
        projects.push(api.project(&format!("soak {number}")).await);
    }
    // Conversations are begun while the process dies, so that a request may meet its death too.
    let begun = {
        let (api, projects) = (api.clone(), projects.clone());
        tokio::spawn(async move {
            use futures::StreamExt;
            let all = (0..conversations)
                .map(|number| converse(api.clone(), projects[number / PER_PROJECT].clone(), number));
            futures::stream::iter(all).buffered(AT_ONCE).collect::<Vec<String>>().await
        })
    };
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(300 + draw.below(2500))).await;
        process.ended(Signal::SIGKILL).await;
        process = Process::start(&home, ports).await;
        tell(&format!("killed {} times", kill + 1));
    }
    let paths = begun.await.unwrap();
    for (number, path) in paths.iter().enumerate() {
        check(&api, &projects[number / PER_PROJECT], path, number).await;
    }
    let mut unique = paths.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), conversations);
    let mut listed = 0;
    for project in &projects {
        let list = api.get(&format!("{project}/conversations?limit=1000")).await.expect(200);
        listed += list["items"].as_array().unwrap().len();
    }
    assert_eq!(listed, conversations, "no request began two conversations");
    process.ended(Signal::SIGINT).await;
    assert!(command(&home, ports, "purge").status().await.unwrap().success());
    assert!(!home.exists());
    assert_nothing_left(&folder.path().display().to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_conversations_survive_five_kills() {
    soak(20, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: `make test-full` runs it"]
async fn two_hundred_conversations_survive_fifty_kills() {
    soak(200, 50).await;
}
