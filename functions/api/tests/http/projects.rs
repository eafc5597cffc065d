//! Projects: made once, listed by page, changed by version, deleted at once.

use serde_json::json;

use crate::parts::house;

#[tokio::test]
async fn a_project_is_made_shown_changed_and_deleted() {
    let house = house().await;
    let made = house.post("/api/projects", &json!({"name": " AI App ", "env": {"A": "1"}})).await;
    assert_eq!((made.status.as_u16(), made.body["vm_status"].as_str()), (201, Some("none")));
    let path = format!("/api/projects/{}", made.text("project_id"));
    assert_eq!(made.headers["location"], path.as_str());
    let shown = house.get(&path).await;
    assert_eq!(
        (shown.body["name"].as_str(), shown.headers["etag"].to_str().unwrap()),
        (Some("AI App"), "\"1\"")
    );
    let put = |tag: &'static str, name: &str| {
        let ask = house.ask("PUT", &path).token(&house.ann).header("if-match", tag);
        ask.json(&json!({"name": name}))
    };
    let changed = put("\"1\"", "B").send().await;
    assert_eq!((changed.status.as_u16(), changed.body["version"].as_u64()), (200, Some(2)));
    assert_eq!(changed.body["env"]["A"], "1", "what is not named stays");
    assert_eq!(put("\"1\"", "C").send().await.code(), (412, "version_mismatch"));
    assert_eq!(house.ask("DELETE", &path).token(&house.ann).send().await.status, 202);
    assert_eq!(house.get(&path).await.status, 404);
    assert_eq!(house.ask("DELETE", &path).token(&house.ann).send().await.status, 404);
    assert_eq!(house.get("/api/projects").await.body["items"], json!([]));
    let started = house.app.workflow.started.lock().unwrap();
    assert_eq!(started.last().unwrap().1["action"], "delete");
}

#[tokio::test]
async fn a_vm_that_is_asked_for_is_starting_at_once_and_a_lost_start_is_told() {
    let house = house().await;
    let body = json!({"name": "a", "auto_setup_vm": true});
    let made = house.post("/api/projects", &body).await;
    assert_eq!(made.body["vm_status"], "starting");
    let (name, input) = house.app.workflow.started.lock().unwrap()[0].clone();
    assert_eq!(
        (input["action"].as_str(), input["operation_id"].as_str()),
        (Some("setup"), Some(name.as_str()))
    );
    assert_eq!(input["project_id"], made.body["project_id"]);
    let events = house.get(&format!("/api/projects/{}/events", made.text("project_id"))).await;
    assert_eq!(events.body["events"][0]["data"]["vm_status"], "starting");
    *house.app.workflow.down.lock().unwrap() = true;
    let made = house.post("/api/projects", &body).await;
    assert_eq!((made.status.as_u16(), made.body["vm_status"].as_str()), (201, Some("failed")));
    let status = house.get(&format!("/api/projects/{}/status", made.text("project_id"))).await;
    assert!(status.text("reason").contains("workflow engine"), "{}", status.body);
}

#[tokio::test]
async fn the_same_request_with_its_key_makes_one_project() {
    let house = house().await;
    let post = |body: serde_json::Value| {
        let ask = house.ask("POST", "/api/projects").token(&house.ann).header("idempotency-key", "k1");
        ask.json(&body).send()
    };
    let (one, two) = tokio::join!(post(json!({"name": "a"})), post(json!({"name": "a"})));
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (201, 201));
    assert_eq!(one.body["project_id"], two.body["project_id"]);
    assert_eq!(post(json!({"name": "b"})).await.code(), (409, "idempotency_mismatch"));
    assert_eq!(house.get("/api/projects").await.body["items"].as_array().unwrap().len(), 1);
    let others = house.ask("POST", "/api/projects").token(&house.bob).header("idempotency-key", "k1");
    let others = others.json(&json!({"name": "a"})).send().await;
    assert_ne!(others.body["project_id"], one.body["project_id"], "a key is its owner's own");
    let bad = house.ask("POST", "/api/projects").token(&house.ann).header("idempotency-key", "a b");
    assert_eq!(bad.json(&json!({"name": "a"})).send().await.code(), (400, "bad_request"));
}

#[tokio::test]
async fn projects_are_listed_page_by_page_to_their_owner_alone() {
    let house = house().await;
    for _ in 0..5 {
        house.project().await;
    }
    let (mut seen, mut path) = (Vec::new(), "/api/projects?limit=2".to_owned());
    loop {
        let page = house.get(&path).await;
        assert_eq!(page.status, 200, "{}", page.body);
        seen.extend(page.body["items"].as_array().unwrap().iter().map(|it| it["project_id"].clone()));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        assert_eq!(
            house
                .ask("GET", &format!("/api/projects?cursor={cursor}"))
                .token(&house.bob)
                .send()
                .await
                .field(),
            "cursor"
        );
        assert_eq!(house.get(&format!("/api/keys?cursor={cursor}")).await.field(), "cursor");
        path = format!("/api/projects?limit=2&cursor={cursor}");
    }
    let different: std::collections::HashSet<_> = seen.iter().map(ToString::to_string).collect();
    assert_eq!((seen.len(), different.len()), (5, 5));
    assert_eq!(house.ask("GET", "/api/projects").token(&house.bob).send().await.body["items"], json!([]));
}
