//! Fair use: limits are told, hold exactly, and are given back.

use reqwest::Method;
use serde_json::{Value, json};

use super::mcp::call_tool;
use crate::api::Api;

/// A limit of the caller, as shown.
pub async fn limit(api: &Api, name: &str) -> (u64, u64) {
    let shown = api.get("/api/limits").await.expect(200);
    let limits = shown["limits"].as_array().unwrap();
    let one = limits.iter().find(|limit| limit["limit"] == name).unwrap();
    (one["most"].as_u64().unwrap(), one["used"].as_u64().unwrap())
}

/// Use is counted while it lasts and given back afterwards; nobody raises their own limits.
pub async fn counted(api: &Api) {
    let path = api.project("fair use").await;
    assert_eq!(limit(api, "vms_running").await.1, 0);
    api.shell(&path, "true").await;
    assert_eq!(limit(api, "vms_running").await.1, 1);
    let asked = json!({"name": "sleeper", "command": "sleep 1000"});
    let made = api.post(&format!("{path}/services"), asked).await.expect(201);
    assert_eq!(limit(api, "services").await.1, 1);
    let id = made["service_id"].as_str().unwrap();
    api.delete(&format!("{path}/services/{id}")).await.expect(200);
    assert_eq!(limit(api, "services").await.1, 0);
    api.post(&format!("{path}/vm/pause"), json!({})).await.expect(200);
    assert_eq!(limit(api, "vms_running").await.1, 0);
    // Whoever is no operator of the install sets no limits, of others or of its own.
    let key = api.post("/api/keys", json!({"name": "writer", "scope": "write"})).await.expect(201);
    let writer = api.with_key(key["api_key"].as_str().unwrap());
    let more = json!({"limits": {"services": 1_000_000}});
    writer.put(&format!("/api/limits/{}", api.owner), more).await.problem(403, "forbidden");
}

/// Sets a limit of the caller, by the install's operator.
pub async fn set(api: &Api, limits: Value) -> Value {
    let path = format!("/api/limits/{}", api.owner);
    api.operator().put(&path, json!({"limits": limits})).await.expect(200)
}

/// Many callers at once get exactly as much as the limit allows; the others are told which limit it was and when to
/// come back.
pub async fn exact(api: &Api) {
    let path = api.project("exact").await;
    api.shell(&path, "true").await;
    set(api, json!({"services": 5})).await;
    let services = format!("{path}/services");
    let start = async |n: usize| {
        let asked = json!({"name": format!("s{n}"), "command": "sleep 1000", "wait_secs": 0});
        api.post(&services, asked).await
    };
    let answers = futures::future::join_all((0..40).map(start)).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 5, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for refused in answers.into_iter().filter(|answer| answer.status != 201) {
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        let problem = refused.problem(429, "limit_reached");
        assert_eq!(problem["limit"], "services", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("of 5 is reached"), "{problem}");
    }
    assert_eq!(limit(api, "services").await, (5, 5));
    assert_eq!(api.get(&services).await.expect(200)["items"].as_array().unwrap().len(), 5);
    // One place given back is one place to take.
    let first = api.get(&services).await.expect(200)["items"][0]["service_id"].clone();
    api.delete(&format!("{services}/{}", first.as_str().unwrap())).await.expect(200);
    let again = futures::future::join_all((40..50).map(start)).await;
    assert_eq!(again.iter().filter(|answer| answer.status == 201).count(), 1);
    set(api, json!({"services": null})).await;
    start(50).await.expect(201);
}

/// Checks that of many answers exactly so many were accepted, and that the others were told which limit it was. Answers
/// what the accepted ones made.
fn exactly(most: usize, name: &str, answers: Vec<crate::api::Answer>) -> Vec<Value> {
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status < 300);
    assert_eq!(
        taken.len(),
        most,
        "{name}: {:?}",
        refused.iter().map(|answer| answer.status).collect::<Vec<_>>()
    );
    for answer in refused {
        assert_eq!(answer.problem(429, "limit_reached")["limit"], name);
    }
    taken.into_iter().map(|answer| answer.body).collect()
}

/// The same race for everything else that is limited.
pub async fn raced(api: &Api) {
    use futures::future::join_all;
    set(api, json!({"vms_running": 2})).await;
    let paths = join_all((0..6).map(|n| async move { api.project(&format!("raced {n}")).await })).await;
    let set_up = |path: &String| {
        let url = format!("{path}/vm/setup");
        async move { api.post(&url, json!({})).await }
    };
    exactly(2, "vms_running", join_all(paths.iter().map(set_up)).await);
    assert_eq!(limit(api, "vms_running").await, (2, 2));
    set(api, json!({"vms_running": null, "storage_bytes": 1_000})).await;

    let files = format!("{}/files", paths[0]);
    let upload = |n: usize| {
        let request = api.request(Method::POST, &format!("{files}?path=f{n}"));
        let request = request.header("content-type", "application/octet-stream").body(vec![b'x'; 300]);
        api.send(request)
    };
    exactly(3, "storage_bytes", join_all((0..12).map(upload)).await);
    assert_eq!(limit(api, "storage_bytes").await, (1_000, 900));
    set(api, json!({"storage_bytes": null, "conversations_running": 2})).await;

    let conversations = format!("{}/conversations", paths[0]);
    let talk = |_: usize| {
        let asked = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm sleep 600"});
        api.post(&conversations, asked)
    };
    let talks = exactly(2, "conversations_running", join_all((0..8).map(talk)).await);
    assert_eq!(limit(api, "conversations_running").await, (2, 2));
    // Their commands count with the event that tells of them; after that nothing else counts.
    for talk in talks {
        let events = format!("{conversations}/{}/events", talk["conversation_id"].as_str().unwrap());
        api.events_until(&events, |event| event["type"] == "tool.started").await;
    }

    api.shell(&paths[0], "true").await;
    let minute = || jiff::Timestamp::now().as_second() / 60;
    let (began, used) = (minute(), limit(api, "commands_per_minute").await.1);
    set(api, json!({"conversations_running": null, "commands_per_minute": used + 3})).await;
    let command = format!("{}/vm/command", paths[0]);
    let answers = join_all((0..12).map(|_| api.post(&command, json!({"command": "true"})))).await;
    // With a new minute counting begins anew, so only the same minute can be compared.
    if minute() == began {
        exactly(3, "commands_per_minute", answers);
    }
    set(api, json!({"commands_per_minute": null})).await;
}

/// Commands of a minute: those over the limit are refused and leave no trace.
pub async fn commands(api: &Api) {
    let path = api.project("commands of a minute").await;
    api.shell(&path, "true").await;
    set(api, json!({"commands_per_minute": 0})).await;
    let command = format!("{path}/vm/command");
    let once = || {
        let request = api.request(Method::POST, &command).header("idempotency-key", "limited");
        request.json(&json!({"command": "echo ran >> ran"}))
    };
    let refused = api.send(once()).await;
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.problem(429, "limit_reached")["limit"], "commands_per_minute");
    set(api, json!({"commands_per_minute": null})).await;
    // The refused request did not use its key up.
    assert_eq!(api.send(once()).await.expect(200)["exit_code"], 0);
    assert_eq!(api.shell(&path, "cat ran").await, "ran\n");
}

/// Agents' and MCP clients' commands are commands of the minute too: over the limit the model is told to wait, and the
/// run goes on.
pub async fn agents(api: &Api) {
    let path = api.project("agents' commands").await;
    api.shell(&path, "true").await;
    set(api, json!({"commands_per_minute": 0})).await;
    let ask = async |message: &str| {
        let asked = json!({"agent_ids": ["dev_agent"], "initial_message": message});
        let made = api.post(&format!("{path}/conversations"), asked).await.expect(201);
        let events = format!("{path}/conversations/{}/events", made["conversation_id"].as_str().unwrap());
        api.events_until(&events, |event| event["type"] == "run.finished").await
    };
    let ended = |events: &[Value]| {
        let finished = events.iter().find(|event| event["type"] == "tool.finished");
        finished.unwrap_or_else(|| panic!("no call ended: {events:?}"))["data"].clone()
    };
    let events = ask("/vm echo ran >> agent-ran").await;
    let told = ended(&events);
    assert_eq!(told["status"], "failed", "{told}");
    let text = told.to_string();
    assert!(text.contains("commands_per_minute") && text.contains("Wait "), "{text}");
    let finished = events.last().unwrap();
    assert_eq!(finished["data"]["outcome"], "completed", "the run is none the worse: {finished}");
    let refused = call_tool(api, &path, "execute_command", json!({"command": "echo ran >> mcp-ran"})).await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(refused.to_string().contains("Wait "), "{refused}");
    // What only looks at files or at what runs already is no command.
    let read = call_tool(api, &path, "list_directory", json!({"path": "."})).await;
    assert_ne!(read["isError"], true, "{read}");

    set(api, json!({"commands_per_minute": null})).await;
    let minute = || jiff::Timestamp::now().as_second() / 60;
    let (began, before) = (minute(), limit(api, "commands_per_minute").await.1);
    assert_eq!(ended(&ask("/vm echo ran >> agent-ran").await)["status"], "done");
    let ran = call_tool(api, &path, "execute_command", json!({"command": "echo ran >> mcp-ran"})).await;
    assert_ne!(ran["isError"], true, "{ran}");
    let after = limit(api, "commands_per_minute").await.1;
    // With a new minute counting begins anew, so only the same minute can be compared.
    if minute() == began {
        assert_eq!(after, before + 2, "each counts once, and what was refused does not");
    }
    assert_eq!(api.shell(&path, "cat agent-ran mcp-ran").await, "ran\nran\n");
}

/// VMs and conversations that run: the next one is refused until one ends.
pub async fn running(api: &Api) {
    let (one, two) = (api.project("one").await, api.project("two").await);
    api.shell(&one, "true").await;
    set(api, json!({"vms_running": 1})).await;
    let refused = api.post(&format!("{two}/vm/command"), json!({"command": "true"})).await;
    assert_eq!(refused.problem(429, "limit_reached")["limit"], "vms_running");
    let refused = api.post(&format!("{two}/vm/setup"), json!({})).await;
    assert_eq!(refused.problem(429, "limit_reached")["limit"], "vms_running");
    let with_vm = json!({"name": "with a VM", "auto_setup_vm": true});
    let refused = api.post("/api/projects", with_vm.clone()).await;
    assert_eq!(refused.problem(429, "limit_reached")["limit"], "vms_running");
    let listed = api.get("/api/projects?limit=1000").await.expect(200);
    assert!(!listed.to_string().contains("with a VM"), "nothing was made");
    api.post(&format!("{one}/vm/pause"), json!({})).await.expect(200);
    api.shell(&two, "true").await;
    set(api, json!({"vms_running": null, "conversations_running": 1})).await;

    let conversations = format!("{one}/conversations");
    let ask = |message: &str| json!({"agent_ids": ["dev_agent"], "initial_message": message});
    let made = api.post(&conversations, ask("/vm sleep 600")).await.expect(201);
    let refused = api.post(&conversations, ask("/vm true")).await;
    assert_eq!(refused.problem(429, "limit_reached")["limit"], "conversations_running");
    let path = format!("{conversations}/{}", made["conversation_id"].as_str().unwrap());
    // A message for the one that runs waits in its queue: that is no second one.
    api.post(&format!("{path}/messages"), json!({"message": "/vm true", "delivery": "queue"}))
        .await
        .expect(202);
    api.post(&format!("{path}/cancel"), json!({})).await.expect(200);
    api.post(&conversations, ask("/vm true")).await.expect(201);
}

/// Storage: an upload over the limit is refused before a byte of it is taken, and what is deleted is given back.
pub async fn storage(api: &Api) {
    let path = api.project("storage").await;
    set(api, json!({"storage_bytes": 1_000})).await;
    let files = format!("{path}/files");
    let upload = async |name: &str, size: usize| {
        let request = api.request(Method::POST, &format!("{files}?path={name}"));
        let request = request.header("content-type", "application/octet-stream").body(vec![b'x'; size]);
        api.send(request).await
    };
    let first = upload("one", 600).await.expect(201);
    assert_eq!(limit(api, "storage_bytes").await, (1_000, 600));
    assert_eq!(upload("two", 600).await.problem(429, "limit_reached")["limit"], "storage_bytes");
    // What is announced counts before it is there.
    let announced = api.post(&files, json!({"path": "three", "size": 401})).await;
    assert_eq!(announced.problem(429, "limit_reached")["limit"], "storage_bytes");
    api.post(&files, json!({"path": "three", "size": 400})).await.expect(201);
    assert_eq!(limit(api, "storage_bytes").await.1, 1_000);
    api.delete(&format!("{files}/{}", first["file_id"].as_str().unwrap())).await;
    assert_eq!(limit(api, "storage_bytes").await.1, 400);
    assert_eq!(api.get(&files).await.expect(200)["items"].to_string().matches("two").count(), 0);
    // An earlier version counts as long as it is kept.
    upload("one", 100).await.expect(201);
    upload("one", 200).await.expect(201);
    assert_eq!(limit(api, "storage_bytes").await.1, 700);
    let listed = api.get(&format!("{files}?prefix=one")).await.expect(200);
    api.delete(&format!("{files}/{}", listed["items"][0]["file_id"].as_str().unwrap())).await;
    assert_eq!(limit(api, "storage_bytes").await.1, 400);
    // What the VM wrote is saved whatever the limit says, so that nothing is lost; it counts all the same.
    api.shell(&path, "head -c 5000 /dev/zero > big").await;
    while limit(api, "storage_bytes").await.1 < 5_400 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(limit(api, "storage_bytes").await.1, 5_400);
    set(api, json!({"storage_bytes": null})).await;
}
