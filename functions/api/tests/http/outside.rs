//! What is true of all routes: who may come in, what is not there, how errors look.

use pvm_api::routes::{Auth, ROUTES};
use serde_json::json;

use crate::parts::house;

/// A path with something in the place of each parameter that has the right form.
fn filled(path: &str, project: &str) -> String {
    path.replace("{project_id}", project)
        .replace("{file_id}", "file_00000000000000000000000000")
        .replace("{service_id}", "svc_00000000000000000000000000")
        .replace("{command_id}", "cmd_00000000000000000000000000")
        .replace("{conversation_id}", "conv_00000000000000000000000000")
        .replace("{approval_id}", "apr_00000000000000000000000000")
        .replace("{key_id}", "key_00000000000000000000000000")
        .replace("{agent_id}", "nobody")
}

#[tokio::test]
async fn no_route_but_the_open_ones_lets_anybody_in_without_a_good_token() {
    let house = house().await;
    let project = house.project().await;
    for route in ROUTES.iter().filter(|route| route.auth != Auth::Open) {
        let path = filled(route.path, &project);
        let ask = || house.ask(route.method.as_str(), &path).header("content-type", "application/json");
        let wrong = "pvm_0000000000000000000000000000000000000000000";
        let answers = [
            ask().send().await,
            ask().token(wrong).send().await,
            ask().token("e2b_0000").send().await,
            ask().token("a.b.c").send().await,
            ask().header("authorization", "Basic YTpi").send().await,
            house.ask(route.method.as_str(), &format!("{path}?ticket=x.y")).send().await,
        ];
        for answer in answers {
            assert_eq!(answer.code(), (401, "unauthorized"), "{}", route.name);
            assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
    }
}

#[tokio::test]
async fn a_strangers_project_is_not_there() {
    let house = house().await;
    let project = house.project().await;
    for route in ROUTES.iter().filter(|route| route.path.contains("{project_id}") && route.auth != Auth::Open)
    {
        let path = filled(route.path, &project);
        let body = match route.name {
            "create-conversation" => json!({"agent_ids": ["dev_agent"], "initial_message": "x"}),
            "send-message" => json!({"message": "x"}),
            "decide-approval" => json!({"decision": "deny"}),
            "run-command" => json!({"command": "true"}),
            "start-service" => json!({"name": "a", "command": "true"}),
            "upload-file" => json!({"path": "a", "size": 1}),
            "complete-upload" => json!({"parts": [{"part_number": 1, "etag": "x"}]}),
            "put-secret" => json!({"host": "a.example", "header": "x-key", "value": "v"}),
            _ => json!({}),
        };
        let answer = house.ask(route.method.as_str(), &path).token(&house.bob).json(&body).send().await;
        assert_eq!(answer.code(), (404, "not_found"), "{}", route.name);
    }
    assert_eq!(house.get(&format!("/api/projects/{project}")).await.status, 200);
}

#[tokio::test]
async fn an_unknown_path_id_or_method_is_told_as_such() {
    let house = house().await;
    assert_eq!(house.get("/api/nothing").await.code(), (404, "not_found"));
    assert_eq!(house.get("/api/projects/nonsense").await.code(), (404, "not_found"));
    let patched = house.ask("PATCH", "/api/projects").token(&house.ann).send().await;
    assert_eq!(patched.code(), (405, "method_not_allowed"));
    assert_eq!(patched.headers["allow"], "POST, GET, HEAD, OPTIONS");
    let problem = house.get("/api/projects/nonsense").await;
    assert_eq!(problem.body["type"], "/docs/errors/not_found");
    assert_eq!(problem.body["instance"], "/api/projects/nonsense");
    assert_eq!(problem.body["request_id"], problem.headers["x-request-id"].to_str().unwrap());
    assert_eq!(house.ask("GET", "/docs/errors/not_found").send().await.status, 200);
}

#[tokio::test]
async fn bad_bodies_are_told_apart() {
    let house = house().await;
    let post = |media_type: &'static str, body: Vec<u8>| {
        house.ask("POST", "/api/projects").token(&house.ann).bytes(media_type, body)
    };
    assert_eq!(post("application/json", b"{\"name\":".to_vec()).send().await.code(), (400, "bad_request"));
    assert_eq!(post("text/plain", b"{}".to_vec()).send().await.code(), (415, "unsupported_media_type"));
    let long = vec![b' '; 2 * 1024 * 1024];
    let refused = post("application/json", long).send().await;
    assert_eq!(refused.code(), (413, "too_large"));
    assert_eq!(refused.headers["connection"], "close");
    assert_eq!(post("application/json", b"{\"name\":\"a\",\"x\":1}".to_vec()).send().await.field(), "x");
    for name in ["", "   ", "a\u{7}b", &"x".repeat(101)] {
        assert_eq!(house.post("/api/projects", &json!({"name": name})).await.field(), "name", "{name:?}");
    }
    assert_eq!(house.get("/api/projects?limit=0").await.field(), "limit");
    assert_eq!(house.get("/api/projects?limit=1001").await.field(), "limit");
    assert_eq!(house.get("/api/projects?cursor=x").await.field(), "cursor");
    assert_eq!(house.get("/api/projects?curser=x").await.field(), "curser");
}

#[tokio::test]
async fn a_browser_gets_what_it_asks_before_and_a_head_has_no_body() {
    let house = house().await;
    let asked = house.ask("OPTIONS", "/api/projects").header("origin", "https://page.example").send().await;
    assert_eq!(asked.status, 204);
    assert_eq!(asked.headers["access-control-allow-origin"], "https://page.example");
    assert!(asked.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    let other = house.ask("OPTIONS", "/api/projects").header("origin", "https://other.example").send().await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    let head = house.ask("HEAD", "/healthz").send().await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert!(head.headers["content-length"].to_str().unwrap().parse::<u32>().unwrap() > 0);
}
