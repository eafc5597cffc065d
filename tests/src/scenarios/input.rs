//! Bad input: a clear problem each, and nothing half-made.

use serde_json::json;

use crate::api::Api;

/// Broken requests to the routes that make projects.
pub async fn projects(api: &Api) {
    let raw = |body: &str| {
        let request =
            api.request(reqwest::Method::POST, "/api/projects").header("content-type", "application/json");
        request.body(body.to_owned())
    };
    let count =
        async || api.get("/api/projects?limit=1000").await.expect(200)["items"].as_array().unwrap().len();
    let before = count().await;
    for broken in ["{", "[1", "\u{1}"] {
        api.send(raw(broken)).await.problem(400, "bad_request");
    }
    api.post("/api/projects", json!({})).await.refuses("name");
    api.post("/api/projects", json!({"name": 7})).await.refuses("name");
    api.post("/api/projects", json!({"name": ""})).await.refuses("name");
    api.post("/api/projects", json!({"name": "x".repeat(101)})).await.refuses("name");
    api.post("/api/projects", json!({"name": "a\u{7}b"})).await.refuses("name");
    api.post("/api/projects", json!({"name": "x", "colour": "red"})).await.refuses("colour");
    api.post("/api/projects", json!({"name": "x", "env": {"A-B": "1"}})).await.refuses("env");
    let huge = json!({"name": "x", "description": "y".repeat(2 * 1024 * 1024)});
    api.post("/api/projects", huge).await.problem(413, "too_large");
    assert_eq!(count().await, before);
    api.get("/api/nowhere").await.problem(404, "not_found");
    api.get("/api/projects/prj_x").await.problem(404, "not_found");
}

/// A method that a path does not have is told apart from a path that does not exist. (API Gateway cannot.)
pub async fn other_methods(api: &Api) {
    let wrong_method = api.send(api.request(reqwest::Method::PATCH, "/api/projects")).await;
    assert!(wrong_method.header("allow").is_some());
    wrong_method.problem(405, "method_not_allowed");
}

/// Broken requests to the routes inside a project.
pub async fn inside(api: &Api) {
    let path = api.project("input").await;
    let command = format!("{path}/vm/command");
    api.post(&command, json!({"command": " "})).await.refuses("command");
    api.post(&command, json!({"command": "true", "timeout_secs": -1})).await.refuses("timeout_secs");
    api.post(&command, json!({"command": "true", "timeout_secs": 90_000})).await.refuses("timeout_secs");
    api.post(&command, json!({"command": "true", "user": "bob"})).await.refuses("user");
    let files = format!("{path}/files");
    for bad in ["..%2Fx", "a%2F..%2F..%2Fx", "%2Fetc%2Fpasswd", "a%00b", &"a%2F".repeat(600)] {
        let upload = api.request(reqwest::Method::POST, &format!("{files}?path={bad}"));
        let upload = upload.header("content-type", "application/octet-stream").body("x");
        api.send(upload).await.refuses("path");
    }
    let large = api.request(reqwest::Method::POST, &format!("{files}?path=large.bin"));
    let large = large.header("content-type", "application/octet-stream").body(vec![0u8; 4 * 1024 * 1024 + 1]);
    api.send(large).await.problem(413, "too_large");
    assert_eq!(api.get(&files).await.expect(200)["items"], json!([]));
    let unknown = json!({"agent_ids": ["nobody"], "initial_message": "hi"});
    api.post(&format!("{path}/conversations"), unknown).await.refuses("agent_ids");
    let elsewhere = json!({"agent_ids": ["dev_agent"], "initial_message": "hi", "project_id": "prj_00000000000000000000000000"});
    api.post("/chat/agents/conversation", elsewhere).await.problem(404, "not_found");
    api.post(&format!("{path}/services"), json!({"name": "a b", "command": "true"})).await.refuses("name");
    api.post(&format!("{path}/services"), json!({"name": "a", "command": "true", "port": 0}))
        .await
        .refuses("port");
}
