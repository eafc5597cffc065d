//! Where agents come from: the API, files of an embedded install, files of a project's workspace. And what is refused, with
//! what is missing.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use pvm_tests::scenarios::conversations::{finished, of_type};
use pvm_tests::stack::{client, config, with_stack};
use serde_json::{Value, json};

async fn upload(api: &Api, project: &str, path: &str, text: &str) {
    let request = api
        .request(reqwest::Method::POST, &format!("{project}/files?path={path}"))
        .header("content-type", "application/octet-stream")
        .body(text.to_owned());
    api.send(request).await.expect(201);
}

fn asked(agent: &str) -> Value {
    json!({"agent_ids": [agent], "initial_message": "/vm echo hello"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_when_it_is_made_with_what_is_missing() {
    with_stack(async |api: Api| {
        let agent = |more: Value| {
            let mut agent = json!({"agent_id": "mine", "model": "replay/demo"});
            agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            agent
        };
        let refused = async |more: Value, field: &str, part: &str| {
            let body = api.post("/api/agents", agent(more)).await.problem(422, "invalid");
            assert_eq!(body["field"], field, "{body}");
            assert!(body["detail"].as_str().unwrap().contains(part), "{body}");
        };
        refused(json!({"model": "openai/gpt-5"}), "model", "OPENAI_API_KEY").await;
        refused(json!({"model": "anthropic/claude"}), "model", "ANTHROPIC_API_KEY").await;
        refused(json!({"model": "bedrock/x"}), "model", "PVM_BEDROCK_REGION").await;
        refused(json!({"model": "nobody/x"}), "model", "there are replay, openai, anthropic, bedrock").await;
        refused(
            json!({"tools": ["read_file", "fly"]}),
            "tools",
            "names fly, and the tools are execute_command",
        )
        .await;
        refused(json!({"approvals": {"fly(*)": "ask"}}), "tools", "names fly").await;
        let unknown = api.post("/api/agents", agent(json!({"allowed-tools": []}))).await;
        assert!(
            unknown.status >= 400 && unknown.body.to_string().contains("allowed-tools"),
            "{}",
            unknown.body
        );
        refused(json!({"timeout_secs": 301}), "timeout_secs", "1 to 300").await;
        refused(json!({"budget": {"tokens": 0}}), "budget.tokens", "at least 1").await;
        let unknown = api.post("/api/agents", agent(json!({"budget": {"dollars": 5}}))).await;
        assert!(unknown.status >= 400 && unknown.body.to_string().contains("dollars"), "{}", unknown.body);
        let rules = json!({"approvals": {"execute_command(rm *)": "ask", "read_file": "auto"},
            "timeout": 90, "budget": {"tokens": 50_000, "seconds": 600}});
        let made = api.post("/api/agents", agent(rules)).await.expect(201);
        assert_eq!((&made["timeout_secs"], &made["budget"]["seconds"]), (&json!(90), &json!(600)), "{made}");

        let project = api.project("refusals").await;
        let body =
            api.post(&format!("{project}/conversations"), asked("nobody_here")).await.problem(422, "invalid");
        assert_eq!(body["field"], "agent_ids", "{body}");
    })
    .await;
}

#[test]
fn the_built_in_prompts_name_only_tools_that_their_agents_have() {
    for agent in pvm_application::agents::builtin() {
        let words = agent.system_prompt.split('`').skip(1).step_by(2);
        let named: Vec<&str> = words.filter(|word| word.contains('_') && !word.contains(' ')).collect();
        assert!(!named.is_empty(), "{} says nothing of its tools", agent.agent_id);
        for tool in named {
            assert!(pvm_tools::entry(tool).is_some(), "{}: there is no tool {tool}", agent.agent_id);
            assert!(agent.may_use(tool), "{} may not use {tool}", agent.agent_id);
        }
        // The whole prompt is sent with every call.
        assert!(agent.system_prompt.len() < 4096, "{}: {}", agent.agent_id, agent.system_prompt.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_workspace_adds_an_agent_and_takes_none_over() {
    with_stack(async |api: Api| {
        let project = api.project("workspace agents").await;
        let file = "---\nname: helper\ndescription: Helps.\nmodel: replay/demo\ntools: [execute_command]\n---\nYou help.\n";
        upload(&api, &project, "agents/helper.md", file).await;
        let (path, events) = finished(&api, &project, &["helper"], "/vm echo hello").await;
        assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed", "{events:#?}");
        assert_eq!(of_type(&events, "turn.started")[0]["agent_id"], "helper");

        // A later message takes the file as it is then: it names a model that cannot be used now.
        upload(&api, &project, "agents/helper.md", &file.replace("replay/demo", "openai/gpt-5")).await;
        let body = api.post(&format!("{path}/messages"), json!({"message": "more"})).await.problem(422, "invalid");
        assert!(body["detail"].as_str().unwrap().contains("OPENAI_API_KEY"), "{body}");

        upload(&api, &project, "agents/broken.md", "---\nname: broken\ntemprature: 1\n---\n").await;
        let body = api.post(&format!("{project}/conversations"), asked("broken")).await.problem(422, "invalid");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("agents/broken.md") && detail.contains("temprature"), "{body}");

        // A misspelt tool would deny or ask for nothing.
        for rules in ["denied_tools: [exekute_command]", "approvals:\n  \"execute_comand(*rm*)\": ask", "tools: [fly]"] {
            let file = format!("---\nname: typo\nmodel: replay/demo\n{rules}\n---\n");
            upload(&api, &project, "agents/typo.md", &file).await;
            let body = api.post(&format!("{project}/conversations"), asked("typo")).await.problem(422, "invalid");
            let detail = body["detail"].as_str().unwrap();
            assert!(detail.contains("agents/typo.md") && detail.contains("the tools are"), "{body}");
        }

        // A file cannot take a known agent's name.
        upload(&api, &project, "agents/dev_agent.md", "---\nname: dev_agent\nmodel: nobody/x\n---\nObey.\n").await;
        let (_, events) = finished(&api, &project, &["dev_agent"], "/vm echo hello").await;
        assert_eq!(of_type(&events, "run.finished")[0]["data"]["outcome"], "completed", "{events:#?}");
    })
    .await;
}

/// Starts a stack whose agents are the files of `folder`; answers `GET /api/agents/helper`, or why it does not start.
async fn started(home: &Path, folder: &Path) -> Result<Value, String> {
    let mut config = config(home);
    config.settings.agents_dir = folder.to_owned();
    let stack = pvm_local::Stack::start(config).await.map_err(|error| format!("{error:#}"))?;
    let agent = client(&stack).get("/api/agents/helper").await.expect(200);
    stack.shutdown(Shutdown::KillAll).await.unwrap();
    Ok(agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_an_embedded_install_are_its_owners_agents() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("agents");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("README.md"), "Agents of this install.").unwrap();
    let file = folder.join("helper.md");
    let write = |prompt: &str| {
        let text = format!("---\nname: helper\nmodel: replay/demo\ntools:\n  - read_file\n---\n{prompt}\n");
        std::fs::write(&file, text).unwrap();
    };
    write("You help.");
    let agent = started(home.path(), &folder).await.unwrap();
    assert_eq!((&agent["version"], &agent["system_prompt"]), (&json!(1), &json!("You help.")), "{agent}");
    let agent = started(home.path(), &folder).await.unwrap();
    assert_eq!(agent["version"], 1, "what did not change is no new version");
    write("You help more.");
    let agent = started(home.path(), &folder).await.unwrap();
    assert_eq!(
        (&agent["version"], &agent["system_prompt"]),
        (&json!(2), &json!("You help more.")),
        "{agent}"
    );

    std::fs::write(&file, "---\nname: helper\ntools: [fly]\n---\n").unwrap();
    let why = started(home.path(), &folder).await.unwrap_err();
    assert!(why.contains("helper.md") && why.contains("fly"), "{why}");
    std::fs::write(&file, "---\nname: helper\nnmae: x\n---\n").unwrap();
    let why = started(home.path(), &folder).await.unwrap_err();
    assert!(why.contains("helper.md") && why.contains("nmae"), "{why}");
}
