//! Requests that make no sense are told so, and make nothing.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::lab::{KEY, Lab};

#[tokio::test(flavor = "multi_thread")]
async fn bad_create_requests_are_refused_and_make_nothing() {
    let lab = Lab::start().await;
    for (status, body, word) in [
        (400, json!({}), "templateID"),
        (400, json!({"templateID": " "}), "templateID"),
        (404, json!({"templateID": "no-such-template"}), "no-such-template"),
        (404, json!({"templateID": "../../etc"}), "etc"),
        (400, json!({"templateID": "host", "timeout": 0}), "Timeout"),
        (400, json!({"templateID": "host", "timeout": -5}), "Timeout"),
        (400, json!({"templateID": "host", "timeout": 90_000}), "24 hours"),
        (400, json!({"templateID": "host", "timeout": "soon"}), "not valid"),
        (400, json!({"templateID": "host", "metadata": {"a": 1}}), "valid"),
        (400, json!({"templateID": "host", "envVars": {"A=B": "1"}}), "envVars"),
        (400, json!({"templateID": "host", "autoPauseMemory": false}), "autoPause"),
        (
            400,
            json!({"templateID": "host", "autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}}),
            "autoResume",
        ),
        (400, json!({"templateID": "host", "network": {"denyOut": ["x.example"]}}), "denyOut"),
        (400, json!({"templateID": "host", "network": {"allowOut": ["x.example"]}}), "0.0.0.0/0"),
        (
            400,
            json!({"templateID": "host", "network": {"rules": {"a.example": [{"transform": {"headers": {"host": "x"}}}]}}}),
            "host",
        ),
        (400, json!({"templateID": "host", "volumeMounts": [{"name": "v", "path": "/v"}]}), "volumeMounts"),
    ] {
        let answer = lab.must(status, "POST", "/v2/sandboxes", body.clone()).await.json();
        assert_eq!(answer["code"], status, "{body}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "{body}: {message}");
    }
    lab.must(
        400,
        "POST",
        "/sandboxes",
        json!({"templateID": "host", "network": {"allowPublicTraffic": false}}),
    )
    .await;
    assert_eq!(std::fs::read_dir(lab.state().join("sandboxes")).unwrap().count(), 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_bodies_and_unknown_paths_are_told_apart() {
    let lab = Lab::start().await;
    let send = |method: &str, path: &str, body: Vec<u8>| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("x-api-key", KEY)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        lab.send(request)
    };
    assert_eq!(send("POST", "/v2/sandboxes", b"{\"templateID\":".to_vec()).await.status, 400);
    assert_eq!(send("POST", "/v2/sandboxes", vec![b' '; 5 << 20]).await.status, 413);
    assert_eq!(send("GET", "/nowhere", Vec::new()).await.status, 404);
    assert_eq!(send("PATCH", "/sandboxes/ix", Vec::new()).await.status, 404);
    assert_eq!(send("GET", "/volumes", Vec::new()).await.status, 501);
    assert_eq!(send("GET", "/v2/sandboxes?limit=0", Vec::new()).await.status, 400);
    assert_eq!(send("GET", "/v2/sandboxes?state=dead", Vec::new()).await.status, 400);
    assert_eq!(send("GET", "/v2/sandboxes?nextToken=%00", Vec::new()).await.status, 400);
    assert_eq!(send("OPTIONS", "/v2/sandboxes", Vec::new()).await.status, 204);
    assert_eq!(send("GET", "/health", Vec::new()).await.status, 204);
    let anonymous = Request::builder().uri("/v2/sandboxes").body(Full::default()).unwrap();
    assert_eq!(lab.send(anonymous).await.status, 401);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_missing_or_paused_sandboxes_are_refused() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let id = &sandbox.sandbox_id;
    lab.must(400, "POST", &format!("/sandboxes/{id}/timeout"), json!({"timeout": -1})).await;
    lab.must(400, "POST", &format!("/sandboxes/{id}/connect"), json!({})).await;
    lab.must(400, "POST", &format!("/sandboxes/{id}/refreshes"), json!({"duration": 5000})).await;
    lab.must(400, "POST", &format!("/sandboxes/{id}/fork"), json!({"count": 0})).await;
    lab.must(400, "GET", &format!("/sandboxes/{id}/metrics?start=9&end=1"), Value::Null).await;
    lab.must(204, "POST", &format!("/sandboxes/{id}/pause"), Value::Null).await;
    lab.must(404, "POST", &format!("/sandboxes/{id}/timeout"), json!({"timeout": 5})).await;
    lab.must(404, "PUT", &format!("/sandboxes/{id}/network"), json!({})).await;
    for path in ["pause", "timeout", "connect", "snapshots", "fork"] {
        let body = json!({"timeout": 5});
        lab.must(404, "POST", &format!("/sandboxes/inothere/{path}"), body).await;
    }
    lab.finish().await;
}
