//! API keys: shown once, narrower than their maker, revocable.

use serde_json::json;

use crate::parts::house;

#[tokio::test]
async fn a_key_is_shown_once_works_and_is_revoked() {
    let house = house().await;
    let made = house.post("/api/keys", &json!({"name": "ci"})).await;
    assert_eq!((made.status.as_u16(), made.body["scope"].as_str()), (201, Some("write")));
    let key = made.text("api_key");
    assert_eq!(house.ask("GET", "/api/projects").token(&key).send().await.status, 200);
    let listed = house.get("/api/keys").await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 2);
    assert!(!String::from_utf8_lossy(&listed.bytes).contains(&key));
    let path = format!("/api/keys/{}", made.text("key_id"));
    assert_eq!(house.ask("DELETE", &path).token(&house.bob).send().await.status, 404);
    assert_eq!(house.ask("DELETE", &path).token(&house.ann).send().await.status, 204);
    assert_eq!(house.ask("DELETE", &path).token(&house.ann).send().await.status, 404);
    assert_eq!(house.ask("GET", "/api/projects").token(&key).send().await.status, 401);
    assert_eq!(house.get("/api/keys").await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_reaches_no_farther_than_it_says() {
    let house = house().await;
    let (mine, other) = (house.project().await, house.project().await);
    let reader = house.post("/api/keys", &json!({"name": "r", "scope": "read", "project_ids": [mine]})).await;
    let reader = reader.text("api_key");
    let ask = |method: &str, path: String| house.ask(method, &path).token(&reader);
    assert_eq!(ask("GET", format!("/api/projects/{mine}")).send().await.status, 200);
    assert_eq!(ask("GET", format!("/api/projects/{other}")).send().await.code(), (404, "not_found"));
    assert_eq!(ask("DELETE", format!("/api/projects/{mine}")).send().await.code(), (403, "forbidden"));
    let write = ask("POST", format!("/api/projects/{mine}/vm/setup")).send().await;
    assert_eq!(write.code(), (403, "forbidden"));
    assert_eq!(ask("POST", "/api/projects".to_owned()).json(&json!({"name": "x"})).send().await.status, 403);
    assert_eq!(ask("GET", "/api/keys".to_owned()).send().await.status, 403);
    let listed = ask("GET", "/api/projects".to_owned()).send().await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn making_a_key_cannot_be_replayed_and_its_fields_are_checked() {
    let house = house().await;
    let post = || house.ask("POST", "/api/keys").token(&house.ann).header("idempotency-key", "k");
    assert_eq!(post().json(&json!({"name": "a"})).send().await.status, 201);
    assert_eq!(post().json(&json!({"name": "a"})).send().await.code(), (409, "idempotency_no_replay"));
    assert_eq!(post().json(&json!({"name": "b"})).send().await.code(), (409, "idempotency_mismatch"));
    let field = async |body: serde_json::Value| house.post("/api/keys", &body).await.field().to_owned();
    assert_eq!(field(json!({"name": ""})).await, "name");
    assert_eq!(field(json!({"name": "a", "scope": "root"})).await, "scope");
    assert_eq!(field(json!({"name": "a", "expires_in_secs": 0})).await, "expires_in_secs");
    assert_eq!(field(json!({"name": "a", "project_ids": []})).await, "project_ids");
    let strangers =
        house.ask("POST", "/api/projects").token(&house.bob).json(&json!({"name": "b"})).send().await;
    assert_eq!(
        field(json!({"name": "a", "project_ids": [strangers.body["project_id"]]})).await,
        "project_ids"
    );
}
