//! Commands: outcomes told apart, run once, output kept.

use serde_json::json;

use crate::api::Api;

/// Every way a command can end.
pub async fn outcomes(api: &Api) {
    let path = api.project("commands").await;
    let done = api.run(&path, json!({"command": "echo out; echo err >&2; exit 3", "env": {"X": "1"}})).await;
    assert_eq!((done["status"].as_str(), done["exit_code"].as_i64()), (Some("exited"), Some(3)), "{done}");
    assert_eq!((done["stdout"].as_str(), done["stderr"].as_str()), (Some("out\n"), Some("err\n")));
    let done = api
        .run(&path, json!({"command": "cat; pwd; id -un; echo $X", "stdin": "in\n", "env": {"X": "y"}}))
        .await;
    assert_eq!(done["stdout"], "in\n/workspace\nuser\ny\n", "{done}");
    let done = api.run(&path, json!({"command": "id -un", "user": "root", "working_dir": "/"})).await;
    assert_eq!(done["stdout"], "root\n");
    let done = api.run(&path, json!({"command": "sleep 600", "timeout_secs": 1})).await;
    assert_eq!(done["status"], "timed_out", "{done}");
    let done = api.run(&path, json!({"command": "kill -9 $$"})).await;
    assert_eq!((done["status"].as_str(), done["signal"].as_i64()), (Some("exited"), Some(9)), "{done}");
    let done = api.run(&path, json!({"command": "printf '\\377ok'"})).await;
    assert_eq!(done["stdout"], "\u{fffd}ok");

    let answer = api
        .post(
            &format!("{path}/vm/command"),
            json!({"command": "sleep 600", "background": true, "timeout_secs": 900}),
        )
        .await;
    let id = answer.expect(202)["command_id"].as_str().unwrap().to_owned();
    let killed = api.delete(&format!("{path}/vm/commands/{id}")).await;
    assert!(killed.status == 200 || killed.status == 202, "{}", killed.body);
    let read = format!("{path}/vm/commands/{id}");
    while api.get(&format!("{read}?wait=5")).await.expect(200)["status"] == "running" {}
    assert_eq!(api.get(&read).await.expect(200)["status"], "killed");
}

/// The same request twice runs once.
pub async fn once(api: &Api) {
    let path = api.project("once").await;
    let post = || {
        let request = api.request(reqwest::Method::POST, &format!("{path}/vm/command"));
        request
            .header("idempotency-key", "cmd-1")
            .json(&json!({"command": "echo run >> /tmp/count; cat /tmp/count"}))
    };
    api.shell(&path, "true").await;
    let (a, b) = tokio::join!(api.send(post()), api.send(post()));
    assert_eq!(a.body["command_id"], b.body["command_id"]);
    api.send(post()).await;
    assert_eq!(api.shell(&path, "cat /tmp/count").await, "run\n");
}

/// Long output is cut in the answer and whole behind it.
pub async fn long_output(api: &Api) {
    let path = api.project("output").await;
    let done = api.run(&path, json!({"command": "seq 1 200000"})).await;
    assert_eq!((done["exit_code"].as_i64(), done["truncated"].as_bool()), (Some(0), Some(true)));
    let out = done["stdout"].as_str().unwrap();
    assert!(out.starts_with("1\n2\n") && out.ends_with("200000\n"), "head and tail are kept");
}

/// The raw bytes of a command's output, from any place on.
pub async fn raw_output(api: &Api) {
    let path = api.project("raw output").await;
    let done = api.run(&path, json!({"command": "printf '\\377\\000\\r\\nend'; printf err >&2"})).await;
    let output = format!("{path}/vm/commands/{}/output", done["command_id"].as_str().unwrap());
    for (query, bytes, next) in [
        ("", &b"\xff\x00\r\nend"[..], "7"),
        ("?offset=4", &b"end"[..], "7"),
        ("?stream=stderr", &b"err"[..], "3"),
        ("?offset=7", &b""[..], "7"),
    ] {
        // Where an answer is not streamed, API Gateway leaves bytes in base64 unless they are asked for by their type.
        let ask = api.request(reqwest::Method::GET, &format!("{output}{query}"));
        let answer = ask.header("accept", "application/octet-stream").send().await.unwrap();
        assert_eq!(answer.status(), 200, "{query}");
        assert_eq!(answer.headers()["content-type"], "application/octet-stream", "{query}");
        assert_eq!(answer.headers()["x-output-next"], next, "{query}");
        assert_eq!(answer.bytes().await.unwrap(), bytes, "{query}");
    }
    api.get(&format!("{output}?stream=other")).await.refuses("stream");
}

/// A long command in the background: its output is read from any offset, by anybody, before and after its end.
pub async fn reconnect(api: &Api) {
    let path = api.project("reconnect").await;
    let line = "echo one; until [ -e go ]; do sleep 0.05; done; echo two; echo error >&2; exit 5";
    let asked = json!({"command": line, "background": true, "timeout_secs": 3_600});
    let made = api.post(&format!("{path}/vm/command"), asked).await.expect(202);
    let id = made["command_id"].as_str().unwrap();
    let at = |offset: u64| format!("{path}/vm/commands/{id}?stdout_offset={offset}&stderr_offset=0&wait=20");
    let first = loop {
        let seen = api.get(&at(0)).await.expect(200);
        if seen["stdout"] == "one\n" {
            break seen;
        }
        assert_eq!(seen["status"], "running", "{seen}");
    };
    assert_eq!(first["stdout_next"], 4, "{first}");
    // Somebody else, from the middle of what was read.
    let raw = api.request(reqwest::Method::GET, &format!("{path}/vm/commands/{id}/output?offset=2"));
    let raw = raw.header("accept", "application/octet-stream");
    assert_eq!(raw.send().await.unwrap().text().await.unwrap(), "e\n");
    let (next, _) = tokio::join!(
        async {
            loop {
                let seen = api.get(&at(4)).await.expect(200);
                if seen["stdout"] != "" {
                    return seen;
                }
            }
        },
        api.shell(&path, "touch go"),
    );
    assert_eq!(next["stdout"], "two\n", "{next}");
    while api.get(&format!("{path}/vm/commands/{id}?wait=20")).await.expect(200)["status"] == "running" {}
    let ended = api.get(&format!("{path}/vm/commands/{id}?stdout_offset=5")).await.expect(200);
    assert_eq!((ended["stdout"].as_str(), ended["exit_code"].as_i64()), (Some("wo\n"), Some(5)), "{ended}");
    assert_eq!(ended["stderr"], "error\n");
}

/// A kill ends everything that the command started, what it put into the background too.
pub async fn kill_the_group(api: &Api) {
    let path = api.project("group").await;
    let line = "sleep 4321 & (sleep 4322; true) & bash -c 'sleep 4323; true' & touch up; wait";
    let asked = json!({"command": line, "background": true, "timeout_secs": 3_600});
    let made = api.post(&format!("{path}/vm/command"), asked).await.expect(202);
    let id = made["command_id"].as_str().unwrap();
    let sleepers = "pgrep -fc '^sleep 432[123]$' || true";
    while api.shell(&path, sleepers).await.trim() != "3" {}
    api.delete(&format!("{path}/vm/commands/{id}")).await;
    while api.get(&format!("{path}/vm/commands/{id}?wait=20")).await.expect(200)["status"] == "running" {}
    let ended = api.get(&format!("{path}/vm/commands/{id}")).await.expect(200);
    assert_eq!(ended["status"], "killed", "{ended}");
    assert_eq!(api.shell(&path, sleepers).await.trim(), "0");
    // A second kill changes nothing.
    assert_eq!(api.delete(&format!("{path}/vm/commands/{id}")).await.expect(200)["status"], "killed");
}
