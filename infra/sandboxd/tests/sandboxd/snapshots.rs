//! Snapshots and forks.

use http::StatusCode;
use pvm_e2b_wire::control::Sandbox;
use serde_json::{Value, json};

use crate::lab::{Lab, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_starts_sandboxes_with_its_files() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let make = "mkdir -p /workspace/d && echo one > /workspace/d/f && ln /workspace/d/f /workspace/g && chmod 4755 /workspace/g && \
                rm /etc/nanorc; mv /usr/share/common-licenses /usr/share/licenses2; mkfifo /workspace/p; \
                ln -s d/f /workspace/l; chown -R user /workspace; chmod u+s /workspace/g";
    lab.sh_as(&sandbox, "root", make).await.ok();
    let path = format!("/sandboxes/{}/snapshots", sandbox.sandbox_id);
    let snapshot = lab.must(201, "POST", &path, json!({"name": "first"})).await.json();
    assert_eq!(snapshot["names"], json!(["first:default"]));
    lab.sh(&sandbox, "echo two > /workspace/d/f").await.ok();

    let look = "cat /workspace/d/f; stat -c '%U %a %h' /workspace/g; readlink /workspace/l; test -p /workspace/p && echo fifo; \
                ls /etc/nanorc /usr/share/common-licenses 2>/dev/null | wc -l; ls -d /usr/share/licenses2; ls /var/lib/pvm/runs 2>/dev/null | wc -l";
    let expected = "one\nuser 4755 2\nd/f\nfifo\n0\n/usr/share/licenses2\n0\n";
    for template in [snapshot["snapshotID"].as_str().unwrap(), "first"] {
        let copy = lab.create_with(json!({"templateID": template})).await;
        assert_eq!(lab.sh_as(&copy, "root", look).await.stdout, expected, "{template}");
        // A snapshot of a copy stands on the first one.
        lab.sh(&copy, "echo three > /workspace/d/f").await.ok();
        let path = format!("/sandboxes/{}/snapshots", copy.sandbox_id);
        let next = lab.must(201, "POST", &path, Value::Null).await.json();
        let id = next["snapshotID"].as_str().unwrap();
        let third = lab.create_with(json!({"templateID": id})).await;
        assert_eq!(lab.sh(&third, "cat /workspace/d/f").await.ok(), "three");
    }

    let all = lab.must(200, "GET", "/snapshots", Value::Null).await.json();
    assert_eq!(all.as_array().unwrap().len(), 3);
    let of_one = format!("/snapshots?sandboxID={}", sandbox.sandbox_id);
    assert_eq!(lab.must(200, "GET", &of_one, Value::Null).await.json(), json!([snapshot]));
    let page = lab.must(200, "GET", "/snapshots?limit=2", Value::Null).await;
    let token = page.headers["x-next-token"].to_str().unwrap().to_owned();
    let rest =
        lab.must(200, "GET", &format!("/snapshots?limit=2&nextToken={token}"), Value::Null).await.json();
    assert_eq!(rest.as_array().unwrap().len(), 1);

    let delete = format!("/templates/{}", snapshot["snapshotID"].as_str().unwrap());
    lab.must(204, "DELETE", &delete, Value::Null).await;
    lab.must(404, "DELETE", &delete, Value::Null).await;
    let gone = lab.call("POST", "/v2/sandboxes", json!({"templateID": "first"})).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_start_with_the_files_and_go_their_own_ways() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"metadata": {"a": "b"}})).await;
    lab.sh(&sandbox, "echo shared > /workspace/f").await.ok();
    let path = format!("/sandboxes/{}/fork", sandbox.sandbox_id);
    let rows = lab.must(201, "POST", &path, json!({"count": 2, "timeout": 60})).await.json();
    let forks: Vec<Sandbox> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| serde_json::from_value(row["sandbox"].clone()).unwrap())
        .collect();
    assert_eq!(forks.len(), 2);
    assert_ne!(forks[0].envd_access_token, sandbox.envd_access_token);
    for fork in &forks {
        assert_eq!(lab.sh(fork, "cat /workspace/f; echo mine > /workspace/f").await.ok(), "shared");
        let detail =
            lab.must(200, "GET", &format!("/sandboxes/{}", fork.sandbox_id), Value::Null).await.json();
        assert_eq!(detail["metadata"]["a"], "b");
    }
    assert_eq!(lab.sh(&sandbox, "cat /workspace/f").await.ok(), "shared");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_known_name_is_a_new_build_of_it() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let path = format!("/sandboxes/{}/snapshots", sandbox.sandbox_id);
    let mut builds = Vec::new();
    let mut id = Value::Null;
    for (text, name, full) in
        [("one", "mine", "mine:default"), ("two", "mine", "mine:default"), ("three", "mine:v2", "mine:v2")]
    {
        lab.sh(&sandbox, &format!("echo {text} > /workspace/f")).await.ok();
        let made = lab.must(201, "POST", &path, json!({"name": name})).await.json();
        assert_eq!(made["names"], json!([full]));
        assert!(id.is_null() || id == made["snapshotID"], "one template for one name");
        id = made["snapshotID"].clone();
        let tags = format!("/templates/{}/tags", id.as_str().unwrap());
        let tags = lab.must(200, "GET", &tags, Value::Null).await.json();
        let default = tags.as_array().unwrap().iter().find(|tag| tag["tag"] == "default").unwrap();
        builds.push(default["buildID"].as_str().unwrap().to_owned());
    }
    assert_ne!(builds[0], builds[1], "the tag means the newer build");
    assert_eq!(builds[1], builds[2], "another tag leaves it alone");
    for (template, text) in [("mine", "two"), ("mine:default", "two"), ("team/mine:v2", "three")] {
        let copy = lab.create_with(json!({"templateID": template})).await;
        assert_eq!(lab.sh(&copy, "cat /workspace/f").await.ok(), text, "{template}");
        assert_eq!(json!(copy.template_id), id);
    }
    lab.must(404, "POST", "/v2/sandboxes", json!({"templateID": "mine:v3"})).await;
    lab.must(404, "POST", "/v2/sandboxes", json!({"templateID": "host:v3"})).await;
    lab.must(201, "POST", "/v2/sandboxes", json!({"templateID": "host:default"})).await;
    lab.must(201, "POST", "/v2/sandboxes", json!({"templateID": "host:latest"})).await;
    let named = lab.must(200, "GET", "/snapshots?name=mine", Value::Null).await.json();
    assert_eq!(named[0]["names"], json!(["mine:default", "mine:v2"]));
    lab.must(204, "DELETE", "/templates/mine:default", Value::Null).await;
    assert_eq!(lab.must(200, "GET", "/snapshots", Value::Null).await.json(), json!([]));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_sandbox_one_snapshot_is_taken_at_a_time() {
    let lab = std::sync::Arc::new(Lab::start().await);
    let sandbox = lab.create().await;
    // Enough that copying it takes longer than sending a few requests.
    lab.sh(
        &sandbox,
        "mkdir /tmp/many; cd /tmp/many; seq 3000 | xargs -n 500 touch; head -c 128M /dev/zero > large",
    )
    .await
    .ok();
    let path = format!("/sandboxes/{}/snapshots", sandbox.sandbox_id);
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (lab, path) = (std::sync::Arc::clone(&lab), path.clone());
        attempts.spawn(async move { lab.call("POST", &path, json!({})).await.status.as_u16() });
    }
    let mut answers = attempts.join_all().await;
    answers.sort_unstable();
    assert_eq!(answers.first(), Some(&201), "{answers:?}");
    assert_eq!(answers.last(), Some(&409), "{answers:?}");
    assert!(answers.iter().all(|status| matches!(status, 201 | 409)), "{answers:?}");
    // The turn is given back, and the sandbox goes on.
    lab.must(201, "POST", &path, json!({})).await;
    assert_eq!(lab.sh(&sandbox, "ls /tmp/many | wc -l").await.ok(), "3001");
    // A kill waits for the snapshot under way, which stays whole.
    let last = {
        let (lab, path) = (std::sync::Arc::clone(&lab), path.clone());
        tokio::spawn(async move { lab.call("POST", &path, json!({})).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    lab.kill(&sandbox).await;
    let last = last.await.unwrap();
    if last.status == StatusCode::CREATED {
        let copy = lab.create_with(json!({"templateID": last.json()["snapshotID"]})).await;
        assert_eq!(
            lab.sh(&copy, "ls /tmp/many | wc -l; stat -c %s /tmp/many/large").await.ok(),
            "3001\n134217728"
        );
    } else {
        assert_eq!(last.status, StatusCode::NOT_FOUND, "{}", last.text());
    }
    std::sync::Arc::into_inner(lab).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_snapshot_stay_as_long_as_something_is_made_of_them() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    lab.sh(&sandbox, "echo kept > /workspace/f").await.ok();
    let path = format!("/sandboxes/{}/snapshots", sandbox.sandbox_id);
    let snapshot = lab.must(201, "POST", &path, Value::Null).await.json();
    let copy = lab.create_with(json!({"templateID": snapshot["snapshotID"]})).await;
    let layers = || std::fs::read_dir(lab.state().join("layers")).unwrap().count();
    assert_eq!(layers(), 1);
    let template = format!("/templates/{}", snapshot["snapshotID"].as_str().unwrap());
    lab.must(204, "DELETE", &template, Value::Null).await;
    // Another round of clearing away, which finds what the copy is made of in use.
    let other = lab.must(201, "POST", &path, Value::Null).await.json();
    let other = format!("/templates/{}", other["snapshotID"].as_str().unwrap());
    lab.must(204, "DELETE", &other, Value::Null).await;
    eventually("only the copy's layer is left", async || layers() == 1).await;
    let pause = format!("/sandboxes/{}/pause", copy.sandbox_id);
    lab.must(204, "POST", &pause, json!({"memory": false})).await;
    lab.must(201, "POST", &format!("/sandboxes/{}/connect", copy.sandbox_id), json!({"timeout": 60})).await;
    assert_eq!(lab.sh(&copy, "cat /workspace/f").await.ok(), "kept");
    lab.kill(&copy).await;
    eventually("nothing is left of the snapshot", async || layers() == 0).await;
    lab.finish().await;
}
