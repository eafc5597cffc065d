//! From create to kill: commands, files, pauses, timeouts.

use std::sync::Arc;
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
    let lab = Lab::with(|config| config.clock = Arc::new(clock.clone())).await;
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
    let lab = Lab::with(|config| config.clock = Arc::new(clock.clone())).await;
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
async fn labels_that_are_changed_at_the_same_time_are_all_there() {
    let lab = Arc::new(Lab::start().await);
    let sandbox = lab.create().await;
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let mut changes = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (lab, path) = (Arc::clone(&lab), format!("{path}/metadata"));
        let label = Value::Object([(format!("label-{number}"), json!("x"))].into_iter().collect());
        changes.spawn(async move { lab.must(204, "PATCH", &path, label).await });
    }
    changes.join_all().await;
    let labels = lab.must(200, "GET", &path, Value::Null).await.json()["metadata"].clone();
    assert_eq!(labels.as_object().unwrap().len(), 40, "{labels}");
    Arc::into_inner(lab).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_being_killed_is_told_from_one_that_is_gone() {
    let lab = Arc::new(Lab::start().await);
    let mut was_told = false;
    for _ in 0..20 {
        let sandbox = lab.create().await;
        lab.sh(&sandbox, "head -c 200M /dev/zero > /tmp/large").await.ok();
        let path = format!("/sandboxes/{}", sandbox.sandbox_id);
        let call = |method: &'static str, path: String, body: Value| {
            let lab = Arc::clone(&lab);
            tokio::spawn(async move { lab.call(method, &path, body).await.status.as_u16() })
        };
        // The kill waits for the snapshot, and what comes after it waits for the kill.
        let snapshot = call("POST", format!("{path}/snapshots"), json!({}));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let kill = call("DELETE", path.clone(), Value::Null);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let connect = call("POST", format!("{path}/connect"), json!({"timeout": 60}));
        let timeout = call("POST", format!("{path}/timeout"), json!({"timeout": 60}));
        let (_, kill, connect, timeout) = tokio::join!(snapshot, kill, connect, timeout);
        assert_eq!(kill.unwrap(), 204);
        assert!(matches!(timeout.unwrap(), 204 | 404), "never a fault of the server");
        let connect = connect.unwrap();
        assert!(matches!(connect, 200 | 404 | 409), "{connect}");
        lab.must(404, "POST", &format!("{path}/connect"), json!({"timeout": 60})).await;
        was_told = connect == 409;
        if was_told {
            break;
        }
    }
    assert!(was_told, "nobody was told that the sandbox is being killed");
    Arc::into_inner(lab).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_beside_a_kill_find_the_sandbox_or_nothing() {
    let lab = Arc::new(Lab::start().await);
    for _ in 0..30 {
        let sandbox = lab.create().await;
        let path = format!("/sandboxes/{}", sandbox.sandbox_id);
        let mut calls = tokio::task::JoinSet::new();
        for (method, path, body) in [
            ("DELETE", path.clone(), Value::Null),
            ("POST", format!("{path}/timeout"), json!({"timeout": 60})),
            ("POST", format!("{path}/refreshes"), json!({"duration": 60})),
            ("PATCH", format!("{path}/metadata"), json!({"a": "b"})),
            ("PUT", format!("{path}/network"), json!({"denyOut": ["0.0.0.0/0"]})),
        ] {
            let lab = Arc::clone(&lab);
            calls.spawn(async move { (path.clone(), lab.call(method, &path, body).await) });
        }
        for (path, answer) in calls.join_all().await {
            assert!(matches!(answer.status.as_u16(), 204 | 404), "{path}: {}", answer.text());
        }
    }
    Arc::into_inner(lab).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keyed_creates_wait_for_their_own_key_only() {
    let lab = Arc::new(Lab::start().await);
    // Its sandboxes are ready when a file is there that only the test puts there; nobody else's creates wait for that.
    let steps = json!([{"type": "RUN", "args": ["true"]}]);
    let body = json!({"fromTemplate": "host", "steps": steps, "readyCmd": "test -e /tmp/go"});
    let (_, status) = crate::builds::build(&lab, "slow", body).await;
    assert_eq!(status["status"], "ready", "{status}");
    let create = |key: &str, template: &str| {
        let request = http::Request::builder()
            .method("POST")
            .uri("/v2/sandboxes")
            .header("x-api-key", crate::lab::KEY)
            .header("idempotency-key", key)
            .body(http_body_util::Full::new(bytes::Bytes::from(json!({"templateID": template}).to_string())))
            .unwrap();
        let lab = Arc::clone(&lab);
        tokio::spawn(async move { lab.send(request).await })
    };
    let slow = create("slow-1", "slow");
    let mut found = Value::Null;
    eventually("the slow one is there", async || {
        found = lab.must(200, "GET", "/v2/sandboxes", Value::Null).await.json();
        !found.as_array().unwrap().is_empty()
    })
    .await;
    let quick = create("quick-1", "host").await.unwrap();
    assert_eq!(quick.status, StatusCode::CREATED);
    assert!(!slow.is_finished(), "the other one waited for it");
    let id = found[0]["sandboxID"].as_str().unwrap();
    let detail = lab.must(200, "GET", &format!("/sandboxes/{id}"), Value::Null).await;
    let waiting: pvm_e2b_wire::control::Sandbox = serde_json::from_slice(&detail.body).unwrap();
    lab.write(&waiting, "/tmp/go", "").await;
    assert_eq!(slow.await.unwrap().status, StatusCode::CREATED);
    Arc::into_inner(lab).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_moved_within_its_rules() {
    let clock = ManualClock::at(1_800_000_000_000);
    let lab = Lab::with(|config| config.clock = Arc::new(clock.clone())).await;
    let sandbox = lab.create_with(json!({"timeout": 100})).await;
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let now: jiff::Timestamp = jiff::Timestamp::from_millisecond(1_800_000_000_000).unwrap();
    let left = async || {
        let detail = lab.must(200, "GET", &path, Value::Null).await.json();
        let end: jiff::Timestamp = detail["endAt"].as_str().unwrap().parse().unwrap();
        end.as_second() - now.as_second()
    };
    // A refresh only ever extends, by a quarter of a minute at least.
    for (duration, expected) in [(json!({"duration": 50}), 100), (json!({"duration": 120}), 120)] {
        lab.must(204, "POST", &format!("{path}/refreshes"), duration).await;
        assert_eq!(left().await, expected);
    }
    lab.must(204, "POST", &format!("{path}/timeout"), json!({"timeout": 5})).await;
    for body in [Value::Null, json!({"duration": 0}), json!({"duration": 3})] {
        lab.must(204, "POST", &format!("{path}/refreshes"), body).await;
        assert_eq!(left().await, 15);
    }
    lab.must(400, "POST", &format!("{path}/refreshes"), json!({"duration": 3601})).await;
    lab.must(400, "POST", &format!("{path}/refreshes"), json!({"duration": -1})).await;
    // A timeout of nothing is the end.
    lab.must(204, "POST", &format!("{path}/timeout"), json!({"timeout": 0})).await;
    eventually("the sandbox is gone", async || {
        lab.call("GET", &path, Value::Null).await.status == StatusCode::NOT_FOUND
    })
    .await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_a_sandbox_is_paused_as_it_was_created_for() {
    let clock = ManualClock::at(1_800_000_000_000);
    let lab = Lab::with(|config| config.clock = Arc::new(clock.clone())).await;
    let fields = json!({"timeout": 10, "autoPause": true, "autoPauseMemory": false});
    let sandbox = lab.create_with(fields).await;
    // Woken by traffic, but only as long as its memory is kept.
    let waking =
        lab.create_with(json!({"timeout": 1000, "autoPause": true, "autoResume": {"enabled": true}})).await;
    clock.advance(Duration::from_secs(11));
    eventually("it is paused", async || lab.state_of(&sandbox).await == "paused").await;
    let path = format!("/sandboxes/{}", waking.sandbox_id);
    lab.must(204, "POST", &format!("{path}/pause"), json!({"memory": false})).await;
    for paused in [&sandbox, &waking] {
        let path = format!("/sandboxes/{}", paused.sandbox_id);
        let detail = lab.must(200, "GET", &path, Value::Null).await.json();
        assert_eq!(detail["pauseMode"], "filesystem");
        let answer = lab.envd(paused, Method::GET, "/health", "").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert_eq!(lab.state_of(paused).await, "paused");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_answer_is_not_paused_by_who_asks_for_a_healthy_one() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let path = format!("/sandboxes/{}/pause", sandbox.sandbox_id);
    crate::adoption::signal(&lab, &sandbox, rustix::process::Signal::STOP);
    let refused = lab.must(503, "POST", &path, json!({"requireHealthyGuest": true})).await;
    assert_eq!(refused.json()["error_code"], "sandbox_snapshot_guest_agent_unresponsive");
    crate::adoption::signal(&lab, &sandbox, rustix::process::Signal::CONT);
    lab.must(204, "POST", &path, json!({"requireHealthyGuest": true})).await;
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
    lab.must(204, "POST", &format!("/sandboxes/{id}/pause"), Value::Null).await;
    lab.must(201, "POST", &format!("/v2/sandboxes/{id}/connect"), json!({})).await;
    let (made, paused, resumed) = ("Sandbox created", "Sandbox paused (memory kept)", "Sandbox resumed");
    for (query, expected) in [
        ("", vec![made, paused, resumed]),
        ("?direction=backward&limit=2", vec![resumed, paused]),
        ("?search=paused", vec![paused]),
        ("?level=warn", vec![]),
        ("?level=debug&limit=1", vec![made]),
        ("?cursor=1", vec![made, paused, resumed]),
        ("?cursor=1&direction=backward", vec![]),
    ] {
        let path = format!("/v2/sandboxes/{id}/logs{query}");
        let logs = lab.must(200, "GET", &path, Value::Null).await.json();
        let messages: Vec<&str> =
            logs["logs"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages, expected, "{query}");
    }
    lab.must(400, "GET", &format!("/v2/sandboxes/{id}/logs?cursor=x"), Value::Null).await;
    lab.finish().await;
}
