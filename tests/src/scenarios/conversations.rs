//! Conversations with the `replay` model, which needs no network: the `/vm` lines of the user's message are run.

use serde_json::{Value, json};

use crate::api::{Api, assert_gap_free};

/// Starts a conversation and waits for its run's end; answers its path and events.
pub async fn finished(api: &Api, project: &str, agents: &[&str], message: &str) -> (String, Vec<Value>) {
    let asked = json!({"agent_ids": agents, "initial_message": message});
    let made = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    (path, events)
}

/// Events of a type.
pub fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

/// `/vm` lines are run by two agents in turn, with directory and variables carried along, and told in order.
pub async fn vm_lines(api: &Api) {
    let project = api.project("conversation").await;
    let message = "Please do this:\n/vm mkdir -p app && cd app\n/vm export COLOUR=blue\n/vm cat > note.txt << 'EOF'\nit is $COLOUR\nEOF\n/vm echo \"$PWD $COLOUR\"";
    let (path, events) = finished(api, &project, &["dev_agent"], message).await;
    assert_gap_free(&events);
    let finish = of_type(&events, "run.finished");
    assert_eq!(
        (finish.len(), finish[0]["data"]["outcome"].as_str()),
        (1, Some("completed")),
        "{}",
        finish[0]
    );
    assert_eq!(of_type(&events, "tool.finished").len(), 4, "{events:#?}");
    let all = Value::from(events).to_string();
    assert!(all.contains("/workspace/app blue"), "{all}");
    assert_eq!(api.shell(&project, "cat app/note.txt").await, "it is $COLOUR\n");
    let conversation = api.get(&path).await.expect(200);
    assert_eq!(conversation["status"], "idle", "{conversation}");
    let page = api.get(&format!("{path}/events?after=0&wait=0")).await.expect(200);
    assert_eq!(page["ended"], true);
}

/// Two agents have their turns in order, and what the first one's tools did is there for the second.
pub async fn two_agents(api: &Api) {
    let project = api.project("two agents").await;
    let message = "Together:\n/vm echo one > one.txt\n/vm cat one.txt";
    let (path, events) = finished(api, &project, &["dev_agent", "designer_agent"], message).await;
    assert_gap_free(&events);
    let turns = of_type(&events, "turn.started");
    let agents: Vec<&str> = turns.iter().map(|event| event["agent_id"].as_str().unwrap()).collect();
    assert_eq!(agents, ["dev_agent", "designer_agent"], "{events:#?}");
    assert_eq!(of_type(&events, "tool.finished").len(), 2, "{events:#?}");
    assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed");
    assert_eq!(api.get(&path).await.expect(200)["agent_ids"], json!(["dev_agent", "designer_agent"]));
}

/// A second message is worked off after the first, and both are kept when sent at the same instant.
pub async fn messages_queue(api: &Api) {
    let project = api.project("queue").await;
    let (path, _) = finished(api, &project, &["dev_agent"], "/vm echo one >> log").await;
    let messages = format!("{path}/messages");
    let send = async |text: &str| api.post(&messages, json!({"message": text, "delivery": "queue"})).await;
    let (a, b) = tokio::join!(send("/vm echo two >> log"), send("/vm echo three >> log"));
    assert!(a.status < 300 && b.status < 300, "{} {}", a.body, b.body);
    let mut ends = 0;
    let mut after = 0;
    while ends < 3 {
        let page = api.get(&format!("{path}/events?after={after}&wait=20")).await.expect(200);
        after = page["next_after"].as_u64().unwrap();
        ends += of_type(page["events"].as_array().unwrap(), "run.finished").len();
    }
    let mut lines: Vec<String> = api.shell(&project, "cat log").await.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["one", "three", "two"]);
    assert_gap_free(&api.events(&format!("{path}/events")).await);
}

/// A cancel ends the run at once and kills what it runs.
pub async fn cancel(api: &Api) {
    let project = api.project("cancel").await;
    api.shell(&project, "true").await;
    let asked = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm echo $$ > pid; sleep 600"});
    let made = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    api.events_until(&format!("{path}/events"), |event| event["type"] == "tool.started").await;
    while api.run(&project, json!({"command": "test -s pid"})).await["exit_code"] != 0 {}
    assert!(api.post(&format!("{path}/cancel"), json!({})).await.status < 300);
    let events = api.events_until(&format!("{path}/events"), |event| event["type"] == "run.finished").await;
    assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "cancelled");
    // Killed before the cancel was answered, not merely forgotten.
    assert_ne!(
        api.run(&project, json!({"command": "kill -0 $(cat pid)"})).await["exit_code"],
        0,
        "it still runs"
    );
    // Not even what it started in the background of its group is left.
    assert_ne!(
        api.run(&project, json!({"command": "pgrep -x sleep"})).await["exit_code"],
        0,
        "its child still runs"
    );
}

/// Agents in parallel work each in a copy of the workspace; what does not collide is merged, what does is kept twice.
pub async fn parallel(api: &Api) {
    let project = api.project("parallel").await;
    api.shell(&project, "echo before > shared.txt; mkdir -p src; echo keep > src/keep.txt").await;
    let message = "/vm basename $PWD > only-$(basename $PWD).txt; cat src/keep.txt\n/vm echo from-$(basename $PWD) > shared.txt";
    let asked =
        json!({"agent_ids": ["dev_agent", "designer_agent"], "mode": "parallel", "initial_message": message});
    let made = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let run_id = made["run_id"].clone();
    let over = |event: &Value| event["type"] == "run.finished" && event["data"]["run_id"] == run_id;
    let events = api.events_until(&format!("{path}/events"), over).await;
    assert_gap_free(&events);
    let ends = of_type(&events, "run.finished");
    assert!(ends.iter().all(|end| end["data"]["outcome"] == "completed"), "{ends:#?}");
    assert_eq!(ends.len(), 3, "two lanes and their run");
    let conflicts = of_type(&events, "file.conflict");
    assert_eq!(conflicts.len(), 1, "{events:#?}");
    assert_eq!(conflicts[0]["data"]["path"], "shared.txt");
    assert_eq!(conflicts[0]["data"]["kept_as"], "shared.txt.designer_agent");
    let kept = "cat only-dev_agent.txt only-designer_agent.txt shared.txt.designer_agent src/keep.txt";
    assert_eq!(api.shell(&project, kept).await, "dev_agent\ndesigner_agent\nfrom-designer_agent\nkeep\n");
    // The first agent had a turn in the workspace itself, to resolve the conflict.
    assert_eq!(api.shell(&project, "cat shared.txt").await, "from-workspace\n");
    let usage = &ends.last().unwrap()["data"]["usage"];
    assert!(usage["vm_ms"].as_u64().unwrap() > 0 && usage["transitions"].as_u64().unwrap() > 10, "{usage}");
}

/// A fork goes on from any point, without what came after it, and without the other's company.
pub async fn fork(api: &Api) {
    let project = api.project("fork").await;
    let (path, events) = finished(api, &project, &["dev_agent"], "/vm echo one >> log").await;
    let at = events.last().unwrap()["seq"].as_u64().unwrap();
    api.post(&format!("{path}/messages"), json!({"message": "/vm echo two >> log"})).await.expect(202);
    let twice = |event: &Value| event["type"] == "run.finished" && event["seq"].as_u64() > Some(at);
    api.events_until(&format!("{path}/events"), twice).await;
    let head = api.events(&format!("{path}/events")).await.len();
    api.post(&format!("{path}/fork?at={}", head + 1), json!({})).await.refuses("at");
    api.post(&format!("{path}/fork?at=0"), json!({})).await.refuses("at");
    let keyed = async |at: u64| {
        let path = format!("{path}/fork?at={at}");
        let request = api.request(reqwest::Method::POST, &path).header("idempotency-key", "fork-once");
        api.send(request.json(&json!({}))).await
    };
    let fork = keyed(at).await.expect(201);
    assert_eq!((fork["forked_at"].as_u64(), fork["message_count"].as_u64()), (Some(at), Some(4)), "{fork}");
    assert_eq!(keyed(at).await.expect(201)["conversation_id"], fork["conversation_id"]);
    keyed(at - 1).await.problem(409, "idempotency_mismatch");
    let forked = format!("{project}/conversations/{}", fork["conversation_id"].as_str().unwrap());
    let told = Value::from(api.events(&format!("{forked}/events")).await).to_string();
    assert!(told.contains("echo one") && !told.contains("echo two"), "{told}");
    api.post(&format!("{forked}/messages"), json!({"message": "/vm cat log"})).await.expect(202);
    let events = api.events_until(&format!("{forked}/events"), |event| event["type"] == "run.finished").await;
    assert_gap_free(&events);
    // The VM is the project's: both have the same one.
    assert!(of_type(&events, "tool.finished")[0]["data"]["text"].as_str().unwrap().contains("one\ntwo"));
}

/// Where there is no room left, the result says so and the run goes on.
pub async fn full_disk(api: &Api) {
    let project = api.project("full").await;
    let message = "/vm echo x > /dev/full\n/vm echo still here";
    let (_, events) = finished(api, &project, &["dev_agent"], message).await;
    let results = of_type(&events, "tool.finished");
    let text = |at: usize| results[at]["data"]["text"].as_str().unwrap().to_owned();
    assert!(
        text(0).contains("No space left on device") && results[0]["data"]["is_error"] == true,
        "{}",
        text(0)
    );
    assert_eq!(text(1), "still here\n");
    assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed");
}

/// A call that a person must allow waits, holding no VM, and runs exactly as it was shown.
pub async fn approvals(api: &Api) {
    let project = api.project("approvals").await;
    let agent = json!({"agent_id": "careful_agent", "approvals": {"execute_command(rm*)": "ask"}});
    assert!([201, 409].contains(&api.post("/api/agents", agent).await.status));
    api.shell(&project, "echo a > a; echo b > b").await;
    let asked = json!({"agent_ids": ["careful_agent"], "initial_message": "/vm rm a\n/vm rm b\n/vm ls"});
    let made = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let path = format!("{project}/conversations/{}", made["conversation_id"].as_str().unwrap());
    let events = format!("{path}/events");
    let asks = |event: &Value| event["type"] == "approval.required";
    let told = api.events_until(&events, asks).await;
    assert_eq!(of_type(&told, "approval.required").len(), 2);
    for (at, decision) in [(0, "approve"), (1, "deny")] {
        let ask = of_type(&told, "approval.required")[at]["data"].clone();
        let door = format!("{path}/approvals/{}", ask["approval_id"].as_str().unwrap());
        let other = json!({"decision": decision, "request_hash": "0".repeat(64)});
        assert_eq!(api.post(&door, other).await.problem(409, "conflict")["field"], "request_hash");
        let good = json!({"decision": decision, "request_hash": ask["request_hash"]});
        api.post(&door, good.clone()).await.expect(200);
        api.post(&door, good).await.expect(200);
    }
    let told = api.events_until(&events, |event| event["type"] == "run.finished").await;
    assert_gap_free(&told);
    assert_eq!(of_type(&told, "approval.decided").len(), 2);
    let statuses: Vec<&str> = of_type(&told, "tool.finished")
        .iter()
        .map(|event| event["data"]["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == "done").count(), 2, "{statuses:?}");
    assert_eq!(api.shell(&project, "ls").await, "b\n");
}
