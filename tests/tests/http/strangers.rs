//! What is somebody's stays theirs: every route about one thing of a project, asked with ids that exist.

use std::collections::BTreeMap;

use pvm_api::routes::{ROUTES, Route};
use pvm_domain::ids::OwnerId;
use pvm_sandboxd::Shutdown;
use pvm_tests::api::{Answer, Api};
use pvm_tests::stack::{client, start};
use serde_json::{Value, json};

/// One of each, by the parameter that its id goes to.
async fn one_of_each(api: &Api, project: &str) -> BTreeMap<&'static str, String> {
    let id = |made: &Value, field: &str| made[field].as_str().unwrap().to_owned();
    let command = api.run(project, json!({"command": "echo mine > mine; echo mine"})).await;
    let asked = json!({"name": "mine", "command": "sleep 1000"});
    let service = api.post(&format!("{project}/services"), asked).await.expect(201);
    let request = api.request(reqwest::Method::POST, &format!("{project}/files?path=mine.txt"));
    let request = request.header("content-type", "application/octet-stream").body("mine");
    let file = api.send(request).await.expect(201);
    let asked = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm echo mine"});
    let conversation = api.post(&format!("{project}/conversations"), asked).await.expect(201);
    let conversation_id = id(&conversation, "conversation_id");
    let events = format!("{project}/conversations/{conversation_id}/events");
    api.events_until(&events, |event| event["type"] == "run.finished").await;
    let archive = api.post(&format!("{project}/archives"), json!({})).await.body;
    let secret = json!({"host": "mine.example", "header": "x-mine", "value": "mine"});
    api.put(&format!("{project}/secrets/MINE"), secret).await;
    BTreeMap::from([
        ("{command_id}", id(&command, "command_id")),
        ("{service_id}", id(&service, "service_id")),
        ("{file_id}", id(&file, "file_id")),
        ("{conversation_id}", conversation_id),
        ("{archive_id}", id(&archive, "archive_id")),
        ("{name}", "MINE".to_owned()),
        ("{number}", "1".to_owned()),
    ])
}

async fn ask(api: &Api, route: &Route, path: &str) -> Answer {
    let body = match route.name {
        "send-message" => json!({"message": "x"}),
        "complete-upload" => json!({"parts": [{"part_number": 1, "etag": "x"}]}),
        "put-secret" => json!({"host": "a.example", "header": "x-key", "value": "v"}),
        _ => json!({}),
    };
    let request = api.request(route.method.clone(), path);
    // Waiting for news of what is there would be no faster with a body.
    api.send(if route.method == reqwest::Method::GET { request } else { request.json(&body) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_project_is_there_for_strangers_or_in_another_project() {
    let home = tempfile::tempdir().unwrap();
    let stack = start(home.path()).await;
    let owner = client(&stack);
    let (project, other) = (owner.project("mine").await, owner.project("other").await);
    let secret = pvm_application::keys_admin::new_secret().unwrap();
    let (store, ambient) = (&stack.app.store, &stack.app.ambient);
    let id = OwnerId::parse("stranger").unwrap();
    pvm_application::keys_admin::ensure(store, ambient, &id, "s", &secret).await.unwrap();
    let stranger = owner.with_key(&secret);

    let ids = one_of_each(&owner, &project).await;
    let mut problems = Vec::new();
    let mut asked = 0;
    for route in ROUTES {
        let Some(rest) = route.path.strip_prefix("/api/projects/{project_id}") else { continue };
        let rest = ids.iter().fold(rest.to_owned(), |path, (parameter, id)| path.replace(parameter, id));
        // An approval is of a conversation, which is looked up first; there is none here.
        if !route.path["/api/projects/{project_id}".len()..].contains('{') || rest.contains('{') {
            continue;
        }
        asked += 1;
        let mut check = |who: &str, answer: Answer| {
            if answer.status != 404 || answer.body["code"] != "not_found" {
                problems.push(format!("{} {who}: {} {}", route.name, answer.status, answer.body));
            }
        };
        check("by a stranger", ask(&stranger, route, &format!("{project}{rest}")).await);
        // A secret's name is a project's own; all other ids are told by the project that they are of.
        if !route.path.contains("{name}") {
            check("in another project", ask(&owner, route, &format!("{other}{rest}")).await);
        }
        if route.method == reqwest::Method::GET {
            let mine = ask(&owner, route, &format!("{project}{rest}")).await;
            assert!(mine.status < 300, "{} {rest}: {} {}", route.name, mine.status, mine.body);
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(asked >= 20, "only {asked} routes were asked");
    stack.shutdown(Shutdown::KillAll).await.unwrap();
}
