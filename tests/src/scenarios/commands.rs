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
