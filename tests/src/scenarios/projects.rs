//! Projects: making, reading, changing, listing, deleting.

use serde_json::json;

use crate::api::Api;

/// A project's whole life without a VM.
pub async fn crud(api: &Api) {
    let made = api
        .post("/api/projects", json!({"name": " Demo ", "description": "d", "env": {"A": "1"}}))
        .await
        .expect(201);
    assert_eq!((made["name"].as_str(), made["vm_status"].as_str()), (Some("Demo"), Some("none")));
    let path = format!("/api/projects/{}", made["project_id"].as_str().unwrap());
    let read = api.get(&path).await;
    let tag = read.header("etag").unwrap().to_owned();
    assert_eq!(read.expect(200), made);
    let status = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!((status["vm_status"].as_str(), status["files"]["total"].as_u64()), (Some("none"), Some(0)));

    let changed = api.put(&path, json!({"name": "Renamed"})).await.expect(200);
    assert_eq!((changed["name"].as_str(), changed["env"]["A"].as_str()), (Some("Renamed"), Some("1")));
    let stale = api.request(reqwest::Method::PUT, &path).header("if-match", tag).json(&json!({"name": "x"}));
    api.send(stale).await.problem(412, "version_mismatch");

    let listed = api.get("/api/projects?limit=1000").await.expect(200);
    assert!(listed["items"].as_array().unwrap().iter().any(|one| one["name"] == "Renamed"));
    api.delete(&path).await.expect(202);
    api.get(&path).await.problem(404, "not_found");
    api.put(&path, json!({"name": "x"})).await.problem(404, "not_found");
    api.delete(&path).await.problem(404, "not_found");
}

/// Lists page without losing or doubling, and a cursor is good for its caller and list only.
pub async fn paging(api: &Api) {
    for n in 0..5 {
        api.project(&format!("page {n}")).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/api/projects?limit=2{cursor}")).await.expect(200);
        assert!(page["items"].as_array().unwrap().len() <= 2);
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["project_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let whole = api.get("/api/projects?limit=1000").await.expect(200);
    let whole: Vec<_> = whole["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["project_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(seen, whole);
    api.get("/api/projects?cursor=nonsense").await.refuses("cursor");
    for bad in ["0", "1001", "x", "-1"] {
        api.get(&format!("/api/projects?limit={bad}")).await.refuses("limit");
    }
}

/// The same `Idempotency-Key` makes one thing.
pub async fn idempotency(api: &Api) {
    let post = |body: serde_json::Value| {
        api.request(reqwest::Method::POST, "/api/projects").header("idempotency-key", "once-1").json(&body)
    };
    let first = api.send(post(json!({"name": "once"}))).await.expect(201);
    let second = api.send(post(json!({"name": "once"}))).await.expect(201);
    assert_eq!(first["project_id"], second["project_id"]);
    api.send(post(json!({"name": "twice"}))).await.problem(409, "idempotency_mismatch");
    let both = tokio::join!(api.send(race(api)), api.send(race(api)), api.send(race(api)));
    let ids =
        [both.0.expect(201), both.1.expect(201), both.2.expect(201)].map(|one| one["project_id"].clone());
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
}

fn race(api: &Api) -> reqwest::RequestBuilder {
    let post = api.request(reqwest::Method::POST, "/api/projects");
    post.header("idempotency-key", "race-1").json(&json!({"name": "race"}))
}

/// Keys: made, shown once, scoped, revoked.
pub async fn keys(api: &Api) {
    let path = api.project("keys").await;
    let other = api.project("other").await;
    let id = path.rsplit('/').next().unwrap();
    let made = api
        .post("/api/keys", json!({"name": "reader", "scope": "read", "project_ids": [id]}))
        .await
        .expect(201);
    let secret = made["api_key"].as_str().unwrap();
    let reader = api.with_key(secret);
    reader.get(&path).await.expect(200);
    reader.get(&other).await.problem(404, "not_found");
    reader.put(&path, json!({"name": "x"})).await.problem(403, "forbidden");
    reader.post("/api/keys", json!({"name": "x", "scope": "admin"})).await.problem(403, "forbidden");
    let listed = api.get("/api/keys").await.expect(200);
    assert!(!listed.to_string().contains(secret));
    api.delete(&format!("/api/keys/{}", made["key_id"].as_str().unwrap())).await.expect(204);
    // At once in one process; in the cloud the authorizer's answer is kept for a minute.
    for _ in 0..180 {
        if reader.get(&path).await.status == 401 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    reader.get(&path).await.problem(401, "unauthorized");
}

/// The status document: true, complete, and the same for a VM that is paused or gone.
pub async fn status(api: &Api) {
    let path = api.project("status").await;
    let none = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!((none["vm_status"].as_str(), none["stale"].as_bool()), (Some("none"), Some(false)), "{none}");
    assert!(
        none["resources"].is_null() && none["uptime_secs"].is_null() && none["vm_id"].is_null(),
        "{none}"
    );
    assert_eq!(none["cost"]["vm_active_secs"], 0, "{none}");

    api.shell(&path, "true").await;
    let active = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!((active["vm_status"].as_str(), active["stale"].as_bool()), (Some("active"), Some(false)));
    let resources = &active["resources"];
    let number = |name: &str| resources[name].as_f64().unwrap_or_else(|| panic!("no {name}: {active}"));
    assert!(number("cpus") >= 1.0 && number("cpu_percent") >= 0.0, "{active}");
    assert!(number("memory_used_bytes") > 0.0 && number("memory_used_bytes") <= number("memory_bytes"));
    assert!(number("disk_bytes") > 0.0, "{active}");
    assert!(active["uptime_secs"].is_u64() && active["started_at"].is_string(), "{active}");
    assert_eq!(active["isolation"], "namespaces", "{active}");
    assert_eq!(
        (&active["capabilities"]["docker"], &active["capabilities"]["sudo"]),
        (&json!(false), &json!(true))
    );
    assert!(active["template"].is_string(), "{active}");
    assert_eq!(active["files"], json!({"total": 0, "synced": 0, "pending": 0, "failed": 0, "unstored": 0}));
    assert_eq!(active["failed_installs"], json!([]));

    api.post(&format!("{path}/vm/pause"), json!({})).await.expect(200);
    let paused = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!(
        (paused["vm_status"].as_str(), &paused["vm_id"]),
        (Some("paused"), &active["vm_id"]),
        "{paused}"
    );
    assert!(paused["resources"].is_null() && paused["uptime_secs"].is_null(), "{paused}");
}

/// What a project says of its VM's clocks is checked, kept and shown.
pub async fn clocks(api: &Api) {
    for (field, bad) in [("vm_idle_secs", 59), ("vm_idle_secs", 90_000), ("vm_paused_secs", 1)] {
        api.post("/api/projects", json!({"name": "x", field: bad})).await.refuses(field);
    }
    let made = api.post("/api/projects", json!({"name": "clocks", "vm_idle_secs": 120})).await.expect(201);
    assert_eq!(
        (made["vm_idle_secs"].as_u64(), made["vm_paused_secs"].as_u64()),
        (Some(120), Some(2_592_000))
    );
    let path = format!("/api/projects/{}", made["project_id"].as_str().unwrap());
    let changed = api.put(&path, json!({"vm_paused_secs": 3_600})).await.expect(200);
    assert_eq!(
        (changed["vm_idle_secs"].as_u64(), changed["vm_paused_secs"].as_u64()),
        (Some(120), Some(3_600))
    );
    api.put(&path, json!({"vm_idle_secs": 0})).await.refuses("vm_idle_secs");
}

/// A VM that cannot be made leaves the project usable: it says why, and the next try works.
pub async fn vm_failure(api: &Api) {
    let body = json!({"name": "no VM", "template": "no-such-template", "auto_setup_vm": true});
    let made = api.post("/api/projects", body).await.expect(201);
    let path = format!("/api/projects/{}", made["project_id"].as_str().unwrap());
    let failed = loop {
        let status = api.get(&format!("{path}/status")).await.expect(200);
        if status["vm_status"] != "starting" {
            break status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(failed["vm_status"], "failed", "{failed}");
    assert!(failed["reason"].as_str().unwrap().contains("no-such-template"), "{failed}");
    // A run says so at once: the next try would meet the same.
    let begin = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm echo never"});
    let begun = api.post(&format!("{path}/conversations"), begin).await.expect(201);
    let events = format!("{path}/conversations/{}/events", begun["conversation_id"].as_str().unwrap());
    let events = api.events_until(&events, |event| event["type"] == "run.finished").await;
    let finished = &events.last().unwrap()["data"];
    assert_eq!(
        (&finished["outcome"], &finished["reason"]),
        (&json!("failed"), &json!("vm_unavailable")),
        "{finished}"
    );
    assert!(finished["detail"].as_str().unwrap().contains("no-such-template"), "{finished}");
    // Everything that needs no VM works on.
    let upload = api.request(reqwest::Method::POST, &format!("{path}/files?path=kept.txt"));
    let upload = upload.header("content-type", "application/octet-stream").body("kept");
    api.send(upload).await.expect(201);
    api.put(&path, json!({"template": "host"})).await.expect(200);
    let setup = api.post(&format!("{path}/vm/setup"), json!({})).await;
    assert!(setup.status == 200 || setup.status == 202, "{}", setup.body);
    assert_eq!(api.shell(&path, "cat kept.txt").await, "kept");
    assert_eq!(api.get(&format!("{path}/status")).await.expect(200)["vm_status"], "active");
}
