//! From create to kill: commands, files, pauses, timeouts.

use std::time::Duration;

use http::{Method, StatusCode};
use pvm_sandboxd::ManualClock;
use serde_json::{Value, json};

use crate::lab::{Lab, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_runs_commands_and_is_gone_after_its_kill() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"envVars": {"GREETING": "hello"}})).await;
    let output =
        lab.sh(&sandbox, "echo $GREETING from $(id -un) in $PWD on $(hostname); echo oops >&2; exit 3").await;
    assert_eq!(output.stdout, "hello from user in /home/user on pvm\n");
    assert_eq!((output.stderr.as_str(), output.exit), ("oops\n", Some(3)));
    lab.kill(&sandbox).await;
    let answer = lab.envd(&sandbox, Method::GET, "/health", "").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.json()["message"].as_str().unwrap().contains("was not found"));
    let again = lab.call("DELETE", &format!("/sandboxes/{}", sandbox.sandbox_id), Value::Null).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_unchanged() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let contents: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut request =
        Lab::request(&sandbox, 49983, Method::POST, "/files?path=deep/down/data.bin", contents.clone());
    request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
    assert_eq!(lab.send(request).await.status, StatusCode::OK);
    let back = lab.envd(&sandbox, Method::GET, "/files?path=deep/down/data.bin", "").await;
    assert_eq!(back.body.len(), contents.len());
    assert!(back.body == contents);
    let seen = lab.sh(&sandbox, "stat -c '%U %s' deep/down/data.bin").await;
    assert_eq!(seen.ok(), format!("user {}", contents.len()));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_breaks_off_when_its_sandbox_is_killed() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let response = lab.start_process(&sandbox, "user", "echo started; sleep 600").await;
    let events = lab.events(response);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        lab.kill(&sandbox).await;
    };
    let (output, ()) = tokio::join!(events, kill);
    assert_eq!((output.stdout.as_str(), output.exit), ("started\n", None));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sandbox_keeps_its_processes_and_goes_on() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let id = &sandbox.sandbox_id;
    let pid = lab.spawn(&sandbox, "user", "while sleep 0.01; do echo x >> /tmp/ticks; done").await;
    lab.sh(&sandbox, "until [ -s /tmp/ticks ]; do sleep 0.01; done").await.ok();

    lab.must(204, "POST", &format!("/sandboxes/{id}/pause"), Value::Null).await;
    assert_eq!(lab.state_of(&sandbox).await, "paused");
    lab.must(409, "POST", &format!("/sandboxes/{id}/pause"), json!({})).await;
    let asleep = lab.envd(&sandbox, Method::GET, "/health", "").await;
    assert_eq!(asleep.status, StatusCode::BAD_GATEWAY);

    lab.must(201, "POST", &format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 60})).await;
    assert_eq!(lab.state_of(&sandbox).await, "running");
    lab.sh(&sandbox, &format!("kill -0 {pid} && n=$(wc -l < /tmp/ticks); until [ $(wc -l < /tmp/ticks) -gt $n ]; do sleep 0.01; done"))
        .await
        .ok();
    lab.must(200, "POST", &format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 60})).await;
    lab.must(409, "POST", &format!("/sandboxes/{id}/resume"), json!({})).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_without_memory_keeps_files_and_starts_anew() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let id = &sandbox.sandbox_id;
    lab.spawn(&sandbox, "user", "sleep 1000").await;
    lab.sh(&sandbox, "echo kept > /workspace/file; cat /run/pvm/boot_id > /workspace/boot").await.ok();
    lab.must(204, "POST", &format!("/sandboxes/{id}/pause"), json!({"memory": false})).await;
    lab.must(201, "POST", &format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 60})).await;
    let seen = lab
        .sh(
            &sandbox,
            "cat /workspace/file; pgrep -c sleep; cmp -s /run/pvm/boot_id /workspace/boot || echo new",
        )
        .await;
    assert_eq!(seen.stdout, "kept\n0\nnew\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_ends_with_its_time_unless_it_is_extended() {
    let clock = ManualClock::at(1_800_000_000_000);
    let lab = Lab::with(|config| config.clock = std::sync::Arc::new(clock.clone())).await;
    let (short, extended, shortened) = (
        lab.create_with(json!({"timeout": 10})).await,
        lab.create_with(json!({"timeout": 10})).await,
        lab.create_with(json!({"timeout": 1000})).await,
    );
    lab.must(200, "POST", &format!("/v2/sandboxes/{}/connect", extended.sandbox_id), json!({"timeout": 100}))
        .await;
    lab.must(200, "POST", &format!("/sandboxes/{}/connect", extended.sandbox_id), json!({"timeout": 1}))
        .await;
    lab.must(204, "POST", &format!("/sandboxes/{}/timeout", shortened.sandbox_id), json!({"timeout": 5}))
        .await;
    clock.advance(Duration::from_secs(11));
    for gone in [&short, &shortened] {
        let path = format!("/sandboxes/{}", gone.sandbox_id);
        eventually("an overdue sandbox is gone", async || {
            lab.call("GET", &path, Value::Null).await.status == StatusCode::NOT_FOUND
        })
        .await;
    }
    assert_eq!(lab.state_of(&extended).await, "running");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_pauses_at_its_timeout_is_woken_by_traffic() {
    let clock = ManualClock::at(1_800_000_000_000);
    let lab = Lab::with(|config| config.clock = std::sync::Arc::new(clock.clone())).await;
    let fields = json!({"timeout": 10, "autoPause": true, "autoResume": {"enabled": true}});
    let sandbox = lab.create_with(fields).await;
    let sleeper = lab.create_with(json!({"timeout": 10, "autoPause": true})).await;
    clock.advance(Duration::from_secs(11));
    for paused in [&sandbox, &sleeper] {
        eventually("an overdue sandbox is paused", async || lab.state_of(paused).await == "paused").await;
    }
    assert_eq!(lab.sh(&sandbox, "echo awake").await.ok(), "awake");
    assert_eq!(lab.state_of(&sandbox).await, "running");
    let answer = lab.envd(&sleeper, Method::GET, "/health", "").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_one_sandbox() {
    let lab = Lab::start().await;
    let request = || {
        http::Request::builder()
            .method("POST")
            .uri("/v2/sandboxes")
            .header("x-api-key", crate::lab::KEY)
            .header("idempotency-key", "once-1")
            .body(http_body_util::Full::new(bytes::Bytes::from_static(br#"{"templateID":"host"}"#)))
            .unwrap()
    };
    let (first, second) = tokio::join!(lab.send(request()), lab.send(request()));
    assert_eq!((first.status, second.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!(first.json()["sandboxID"], second.json()["sandboxID"]);
    let mut other = request();
    *other.body_mut() = bytes::Bytes::from_static(br#"{"templateID":"host","timeout":77}"#).into();
    let refused = lab.send(other).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(refused.json()["error_code"], "idempotency_request_mismatch");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_replaced_and_changed() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"metadata": {"foo": "bar", "kind": "test"}})).await;
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let labels = async || lab.must(200, "GET", &path, Value::Null).await.json()["metadata"].clone();
    for (method, body, expected) in [
        ("PATCH", json!({"hello": "world"}), json!({"foo": "bar", "kind": "test", "hello": "world"})),
        ("PATCH", json!({"hello": "", "foo": "baz"}), json!({"foo": "baz", "kind": "test"})),
        ("PATCH", json!({"foo": null, "kind": ""}), json!({})),
        ("PUT", json!({"a": "1", "b": "2"}), json!({"a": "1", "b": "2"})),
        ("PUT", json!({}), json!({})),
    ] {
        lab.must(204, method, &format!("{path}/metadata"), body.clone()).await;
        assert_eq!(labels().await, expected, "{method} {body}");
    }
    lab.must(400, "PATCH", &format!("{path}/metadata"), json!({"a": 1})).await;
    lab.must(404, "PUT", "/sandboxes/inothere/metadata", json!({})).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn details_tell_how_it_is_paused_and_an_end_can_be_only_extended() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"timeout": 100})).await;
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let detail = async || lab.must(200, "GET", &path, Value::Null).await.json();
    let end = detail().await["endAt"].clone();
    let body = json!({"timeout": 20, "extendOnly": true});
    lab.must(204, "POST", &format!("{path}/timeout"), body).await;
    assert_eq!(detail().await["endAt"], end);
    lab.must(204, "POST", &format!("{path}/timeout"), json!({"timeout": 20})).await;
    assert!(detail().await["endAt"].as_str() < end.as_str());
    assert_eq!(detail().await["pauseMode"], Value::Null);
    for (memory, mode) in [(true, "full"), (false, "filesystem")] {
        lab.must(204, "POST", &format!("{path}/pause"), json!({"memory": memory})).await;
        assert_eq!(detail().await["pauseMode"], mode);
        lab.must(409, "POST", &format!("{path}/pause"), Value::Null).await;
        lab.must(409, "POST", &format!("{path}/fork"), json!({})).await;
        lab.must(201, "POST", &format!("{path}/resume"), json!({"timeout": 60})).await;
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_logs_tell_what_a_sandbox_did() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let id = &sandbox.sandbox_id;
    let metrics = lab.must(200, "GET", &format!("/sandboxes/{id}/metrics"), Value::Null).await.json();
    assert_eq!(metrics[0]["cpuCount"], 2);
    assert!(metrics[0]["memUsed"].as_u64().unwrap() > 0);
    let many = lab
        .must(200, "GET", &format!("/sandboxes/metrics?sandbox_ids={id},inothere"), Value::Null)
        .await
        .json();
    assert_eq!(many["sandboxes"].as_object().unwrap().len(), 1);
    let logs = lab.must(200, "GET", &format!("/v2/sandboxes/{id}/logs?limit=1"), Value::Null).await.json();
    assert_eq!(logs["logs"][0]["message"], "Sandbox created");
    let older = lab.must(200, "GET", &format!("/sandboxes/{id}/logs"), Value::Null).await.json();
    assert_eq!(older["logs"][0]["line"], "Sandbox created");
    assert_eq!(older["logEntries"][0]["level"], "info");
    lab.finish().await;
}
