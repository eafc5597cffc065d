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
    // Killed, not merely forgotten.
    for _ in 0..100 {
        if api.run(&project, json!({"command": "kill -0 $(cat pid)"})).await["exit_code"] != 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the command still runs");
}
