//! Template builds.

use std::io::Write as _;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::lab::{Lab, eventually};

pub(crate) async fn build(lab: &Lab, name: &str, body: Value) -> (String, Value) {
    let announced = lab.must(202, "POST", "/v3/templates", json!({"name": name})).await.json();
    let (template, build) =
        (announced["templateID"].as_str().unwrap(), announced["buildID"].as_str().unwrap());
    run(lab, template, build, body).await
}

async fn run(lab: &Lab, template: &str, build: &str, body: Value) -> (String, Value) {
    lab.must(202, "POST", &format!("/v2/templates/{template}/builds/{build}"), body).await;
    let path = format!("/templates/{template}/builds/{build}/status");
    let mut status = Value::Null;
    eventually("the build has ended", async || {
        status = lab.must(200, "GET", &path, Value::Null).await.json();
        status["status"] != "building"
    })
    .await;
    (template.to_owned(), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_built_from_steps() {
    let lab = Lab::start().await;
    let announced =
        lab.must(202, "POST", "/v3/templates", json!({"name": "mine", "memoryMB": 512})).await.json();
    let (template, build_id) =
        (announced["templateID"].as_str().unwrap(), announced["buildID"].as_str().unwrap());

    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in [("app/main.txt", "main"), ("app/sub/b.txt", "b"), ("one.txt", "one")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let mut archive = archive.into_inner().unwrap();
    archive.flush().unwrap();
    let archive = archive.finish().unwrap();
    let hash = "0123456789abcdef0123456789abcdef";
    let file = lab.must(201, "GET", &format!("/templates/{template}/files/{hash}"), Value::Null).await.json();
    assert_eq!(file["present"], false);
    let url: http::Uri = file["url"].as_str().unwrap().parse().unwrap();
    let put = Request::builder()
        .method(Method::PUT)
        .uri(url.path())
        .header("host", "127.0.0.1")
        .body(Full::new(Bytes::from(archive)))
        .unwrap();
    assert_eq!(lab.send(put).await.status, StatusCode::OK);
    let file = lab.must(201, "GET", &format!("/templates/{template}/files/{hash}"), Value::Null).await.json();
    assert_eq!(file["present"], true);

    let steps = json!([
        {"type": "ENV", "args": ["COLOUR", "blue"]},
        {"type": "WORKDIR", "args": ["/srv/app"]},
        {"type": "COPY", "args": ["app", "/srv/app/", "", ""], "filesHash": hash},
        {"type": "COPY", "args": ["one.txt", "/srv/renamed.txt", "root", "600"], "filesHash": hash},
        {"type": "RUN", "args": ["echo $COLOUR in $PWD as $(id -un) > made.txt && cat made.txt"]},
        {"type": "RUN", "args": ["id -un > /srv/who", "root"]}
    ]);
    let body = json!({"fromTemplate": "host", "steps": steps, "startCmd": "echo started > /tmp/started; sleep 100", "readyCmd": "test -e /tmp/started"});
    let (_, status) = run(&lab, template, build_id, body).await;
    assert_eq!(status["status"], "ready", "{status}");
    assert!(status["logEntries"].to_string().contains("blue in /srv/app as user"), "{status}");

    let sandbox = lab.create_with(json!({"templateID": "mine"})).await;
    let look = "pwd; cat made.txt main.txt sub/b.txt; echo; echo $COLOUR; cat /srv/who; stat -c '%U %a' /srv/renamed.txt; cat /tmp/started; pgrep -c sleep";
    let seen = lab.sh(&sandbox, look).await;
    assert_eq!(
        seen.ok(),
        "/srv/app\nblue in /srv/app as user\nmainb\nblue\nroot\nroot 600\nstarted\n1",
        "{seen:?}"
    );
    let detail =
        lab.must(200, "GET", &format!("/sandboxes/{}", sandbox.sandbox_id), Value::Null).await.json();
    assert_eq!(detail["memoryMB"], 512);
    let alias = lab.must(200, "GET", "/templates/aliases/mine", Value::Null).await.json();
    assert_eq!(alias["templateID"], template);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_fails_the_build_and_says_which() {
    let lab = Lab::start().await;
    let steps =
        json!([{"type": "RUN", "args": ["true"]}, {"type": "RUN", "args": ["echo broken >&2; exit 7"]}]);
    let (template, status) = build(&lab, "bad", json!({"fromTemplate": "host", "steps": steps})).await;
    assert_eq!(status["status"], "error");
    assert_eq!(status["reason"]["message"], "step 2 failed: the command exited with status 7");
    assert!(status["logs"].to_string().contains("broken"));
    lab.must(404, "POST", "/v2/sandboxes", json!({"templateID": template})).await;
    let listed = lab.must(200, "GET", "/v2/sandboxes", Value::Null).await.json();
    assert_eq!(listed, json!([]));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_would_have_to_be_pulled_is_refused() {
    let lab = Lab::start().await;
    let announced = lab.must(202, "POST", "/v3/templates", json!({"name": "x"})).await.json();
    let path = format!(
        "/v2/templates/{}/builds/{}",
        announced["templateID"].as_str().unwrap(),
        announced["buildID"].as_str().unwrap()
    );
    let refused = lab.must(400, "POST", &path, json!({"fromImage": "ubuntu:22.04"})).await;
    assert!(refused.json()["message"].as_str().unwrap().contains("pulled"));
    let unknown =
        lab.must(400, "POST", &path, json!({"fromTemplate": "host", "steps": [{"type": "FLY"}]})).await;
    assert!(unknown.json()["message"].as_str().unwrap().contains("FLY"));
    lab.must(404, "POST", "/v2/templates/nope/builds/nope", json!({})).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_root_that_is_here_is_taken_by_its_usual_names() {
    let lab = Lab::start().await;
    for image in ["host", "host:latest", "host:default"] {
        let (_, status) = build(&lab, "from-image", json!({"fromImage": image})).await;
        assert_eq!(status["status"], "ready", "{image}: {status}");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_template_starts_runs_after_every_start_from_files() {
    let lab = Lab::start().await;
    let start = "echo started >> /workspace/starts; touch /tmp/up; exec sleep 1234";
    let body = json!({"fromTemplate": "host", "startCmd": start, "readyCmd": "pgrep -f 'sleep 1234'"});
    let (_, status) = build(&lab, "starts", body).await;
    assert_eq!(status["status"], "ready", "{status}");
    let sandbox = lab.create_with(json!({"templateID": "starts"})).await;
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let look = "cat /workspace/starts | wc -l; pgrep -fc 'sleep 1234'";
    assert_eq!(lab.sh(&sandbox, look).await.stdout, "1\n1\n");

    // A pause that keeps the memory keeps the process.
    for (memory, starts) in [(true, 1), (false, 2)] {
        lab.must(204, "POST", &format!("{path}/pause"), json!({"memory": memory})).await;
        lab.must(201, "POST", &format!("{path}/connect"), json!({"timeout": 60})).await;
        assert_eq!(lab.sh(&sandbox, look).await.stdout, format!("{starts}\n1\n"), "memory: {memory}");
    }
    let forks = lab.must(201, "POST", &format!("{path}/fork"), json!({"count": 2})).await.json();
    for fork in forks.as_array().unwrap() {
        let fork = serde_json::from_value(fork["sandbox"].clone()).unwrap();
        assert_eq!(lab.sh(&fork, look).await.stdout, "3\n1\n");
    }
    let snapshot = lab.must(201, "POST", &format!("{path}/snapshots"), json!({})).await.json();
    let copy = lab.create_with(json!({"templateID": snapshot["snapshotID"]})).await;
    assert_eq!(lab.sh(&copy, look).await.stdout, "3\n1\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_name_builds_and_are_given_and_taken() {
    let lab = Lab::start().await;
    let make = async |text: &str| {
        let steps = json!([{"type": "RUN", "args": [format!("echo {text} > /srv/text"), "root"]}]);
        let (template, status) = build(&lab, "tagged", json!({"fromTemplate": "host", "steps": steps})).await;
        assert_eq!(status["status"], "ready", "{status}");
        (template, status["buildID"].as_str().unwrap().to_owned())
    };
    let (template, first) = make("one").await;
    let assigned = json!({"target": "tagged:default", "tags": ["v1", "stable"]});
    let assigned = lab.must(201, "POST", "/templates/tags", assigned).await.json();
    assert_eq!(assigned, json!({"buildID": first, "tags": ["v1", "stable"]}));
    let (again, second) = make("two").await;
    assert_eq!(again, template);
    assert_ne!(first, second);
    for (name, text) in [("tagged", "two"), ("tagged:v1", "one"), ("tagged:stable", "one")] {
        let sandbox = lab.create_with(json!({"templateID": name})).await;
        assert_eq!(lab.sh(&sandbox, "cat /srv/text").await.ok(), text, "{name}");
    }
    lab.must(204, "DELETE", "/templates/tags", json!({"name": "tagged", "tags": ["v1"]})).await;
    lab.must(404, "POST", "/v2/sandboxes", json!({"templateID": "tagged:v1"})).await;
    lab.must(404, "DELETE", "/templates/tags", json!({"name": "tagged", "tags": ["v1"]})).await;
    lab.must(400, "DELETE", "/templates/tags", json!({"name": "tagged", "tags": ["default"]})).await;
    lab.must(400, "POST", "/templates/tags", json!({"target": "tagged", "tags": ["a:b"]})).await;
    lab.must(404, "POST", "/templates/tags", json!({"target": "nothing", "tags": ["a"]})).await;
    let listed = lab.must(200, "GET", "/v2/templates?limit=1", Value::Null).await.json();
    assert_eq!((&listed[0]["buildCount"], &listed[0]["buildID"]), (&json!(2), &json!(second)));
    assert!(listed[0]["spawnCount"].as_u64().unwrap() >= 3);
    let detail = lab.must(200, "GET", &format!("/templates/{template}"), Value::Null).await.json();
    assert_eq!(detail["builds"].as_array().unwrap().len(), 2);
    lab.must(200, "PATCH", &format!("/v2/templates/{template}"), json!({"public": true})).await;
    let log = format!("/templates/{template}/builds/{second}/logs?direction=backward&limit=1");
    let log = lab.must(200, "GET", &log, Value::Null).await.json();
    assert_eq!(log["logs"][0]["message"], "Build finished");
    lab.finish().await;
}
