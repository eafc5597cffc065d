//! The HTTP API over a whole stack in process: every route's door, every kind of bad input, and the stories.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "http/private_git.rs"]
mod private_git;
#[path = "http/strangers.rs"]
mod strangers;

use pvm_api::routes::{Auth, ROUTES};
use pvm_domain::ids::OwnerId;
use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use pvm_tests::scenarios::{commands, fair_use, files, input, mcp, projects, secrets, services};
use pvm_tests::stack::{client, start, with_stack, with_stack_of};
use serde_json::json;

macro_rules! stories {
    ($($name:ident: $story:path;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            with_stack(async |api: Api| $story(&api).await).await;
        }
    )*};
}

stories! {
    a_project_is_made_read_changed_listed_and_deleted: projects::crud;
    lists_page_without_loss_and_refuse_bad_cursors: projects::paging;
    an_idempotency_key_makes_one_thing: projects::idempotency;
    keys_are_shown_once_scoped_and_revoked: projects::keys;
    a_vm_that_cannot_be_made_says_why_and_the_next_try_works: projects::vm_failure;
    bad_projects_are_refused_and_nothing_is_made: input::projects;
    a_wrong_method_is_not_a_wrong_path: input::other_methods;
    bad_input_inside_a_project_is_refused_by_field: input::inside;
    every_end_of_a_command_is_told_apart: commands::outcomes;
    the_same_request_runs_a_command_once: commands::once;
    long_output_keeps_head_and_tail: commands::long_output;
    raw_output_is_read_from_any_place_on: commands::raw_output;
    output_is_read_again_from_any_offset: commands::reconnect;
    a_kill_ends_all_that_a_command_started: commands::kill_the_group;
    the_status_document_is_complete_and_true: projects::status;
    a_projects_vm_clocks_are_checked_and_kept: projects::clocks;
    use_is_counted_and_given_back: fair_use::counted;
    a_limit_holds_exactly_under_many_callers: fair_use::exact;
    every_limit_holds_exactly_under_many_callers: fair_use::raced;
    commands_over_the_limit_are_refused_without_a_trace: fair_use::commands;
    commands_of_agents_count_and_a_model_over_the_limit_is_told_to_wait: fair_use::agents;
    vms_and_conversations_over_the_limit_are_refused: fair_use::running;
    storage_is_limited_and_given_back: fair_use::storage;
    a_service_waits_for_those_it_depends_on: services::dependencies;
    a_port_that_is_taken_is_told: services::port_taken;
    a_service_is_started_again_by_its_policy: services::restarts;
    a_port_opens_by_a_link_until_it_is_revoked: services::links;
    web_sockets_pass_through_a_services_url: services::web_socket;
    a_paused_vm_has_no_urls_and_a_link_brings_it_back: services::paused;
    files_go_both_ways: files::both_ways;
    the_workspace_outlives_its_vm: files::outlive_the_vm;
    an_upload_in_parts_is_one_file: files::in_parts;
    versions_are_kept_and_brought_back: files::versions;
    a_deleted_file_is_listed_and_brought_back: files::deleted;
    links_and_permission_bits_are_kept: files::links_and_modes;
    the_workspace_is_downloaded_as_one_archive: files::archive;
    a_secret_is_set_and_never_read_back: secrets::crud;
    a_secret_is_in_force_for_its_host_and_never_inside: secrets::in_force;
    a_web_server_is_a_service: services::web_server;
    a_service_that_ends_at_once_has_failed_and_says_why: services::failure;
    a_service_start_that_was_never_ready_is_ended_before_the_next: services::retried;
    services_come_back_on_a_new_vm: services::brought_back;
    clients_of_both_eras_use_tools_and_resources: mcp::both_eras;
}

/// Reads an event stream until a block that `enough` accepts; answers all text up to then.
async fn stream_until(answer: &mut reqwest::Response, enough: &str) -> String {
    let mut text = String::new();
    while !text.contains(enough) {
        let chunk = answer.chunk().await.unwrap();
        let Some(chunk) = chunk else { panic!("the stream ended without {enough:?}: {text}") };
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commands_stream_is_taken_up_again_where_it_was_left() {
    with_stack(async |api: Api| {
        let path = api.project("stream").await;
        let line = "echo first; until [ -e go ]; do sleep 0.05; done; echo second; exit 6";
        let request = api.request(reqwest::Method::POST, &format!("{path}/vm/command"));
        let request = request.header("accept", "text/event-stream").json(&json!({"command": line}));
        let mut stream = request.send().await.unwrap();
        let text = stream_until(&mut stream, "first").await;
        let running = text.split("\"command_id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        // The client goes away; the command does not.
        drop(stream);
        let again = format!("{path}/vm/commands/{running}?stdout_offset=6");
        let request = api.request(reqwest::Method::GET, &again).header("accept", "text/event-stream");
        let mut stream = request.send().await.unwrap();
        let (text, _) =
            tokio::join!(stream_until(&mut stream, "\"exit_code\":6"), api.shell(&path, "touch go"));
        assert!(text.contains("\"data\":\"second\\n\",\"offset\":6"), "{text}");
        assert!(!text.contains("\"data\":\"first") && text.contains("\"status\":\"exited\""), "{text}");
        while stream.chunk().await.unwrap().is_some() {}
    })
    .await;
}

/// More services than a VM has processes for: each is refused or has a state that is true, the VM goes on, and the next
/// try works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a thousand services: make test-full"]
async fn a_thousand_services_each_run_or_say_why_not() {
    use futures::StreamExt;
    with_stack(async |api: Api| {
        let path = api.project("a thousand").await;
        let services = format!("{path}/services");
        fair_use::set(&api, json!({"services": 1_000})).await;
        api.shell(&path, "true").await;
        let answers: Vec<_> = futures::stream::iter(0..1_001)
            .map(|n| {
                let asked = json!({"name": format!("s{n}"), "command": "sleep 100000", "wait_secs": 0});
                api.post(&services, asked)
            })
            .buffer_unordered(16)
            .collect()
            .await;
        let mut refused = std::collections::BTreeMap::<String, usize>::new();
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            *refused.entry(answer.body["code"].as_str().unwrap().to_owned()).or_default() += 1;
            assert!(answer.body["detail"].is_string(), "{}", answer.body);
        }
        let mut states = std::collections::BTreeMap::<String, usize>::new();
        let listed = api.get(&services).await.expect(200);
        for service in listed["items"].as_array().unwrap() {
            let state = service["status"].as_str().unwrap();
            *states.entry(state.to_owned()).or_default() += 1;
            assert_eq!(service["reason"].is_string(), state == "failed", "{service}");
        }
        assert_eq!(states.values().sum::<usize>(), fair_use::limit(&api, "services").await.1 as usize);
        let told = format!("{states:?}, refused {refused:?}");
        assert!(states["running"] + states.get("starting").copied().unwrap_or(0) >= 200, "{told}");
        assert!(refused.get("limit_reached").copied().unwrap_or(0) <= 1, "{told}");
        // They are stopped like any others, and then there is room again.
        let all = listed["items"].as_array().unwrap().clone();
        futures::stream::iter(all)
            .for_each_concurrent(16, async |service| {
                let id = service["service_id"].as_str().unwrap();
                api.delete(&format!("{services}/{id}")).await.expect(200);
            })
            .await;
        assert_eq!(fair_use::limit(&api, "services").await.1, 0, "{told}");
        let one = json!({"name": "one", "command": "echo up; sleep 1000", "ready": {"log_line": "up"}});
        api.post(&services, one).await.expect(201);
        services::until(&api, &path, "one", "running").await;
        assert_eq!(api.shell(&path, "pgrep -c -x sleep").await, "1\n", "{told}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_services_output_is_followed_over_its_restart_to_its_end() {
    with_stack(async |api: Api| {
        let path = api.project("follow").await;
        let line = "echo start; for f in one two; do until [ -e $f ]; do sleep 0.05; done; echo saw-$f; done; exit 9";
        let asked = json!({"name": "talker", "command": line, "ready": {"log_line": "start"}, "restart": "always"});
        let made = api.post(&format!("{path}/services"), asked).await.expect(201);
        let id = made["service_id"].as_str().unwrap();
        let logs = format!("{path}/services/{id}/logs");
        let request = api.request(reqwest::Method::GET, &logs).header("accept", "text/event-stream");
        let mut stream = request.send().await.unwrap();
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        stream_until(&mut stream, "start\\n").await;
        api.shell(&path, "touch one").await;
        stream_until(&mut stream, "saw-one").await;
        // It ends, is started again, and goes on in the same stream.
        api.shell(&path, "touch two").await;
        let text = stream_until(&mut stream, "starting it again").await;
        assert!(text.contains("saw-two") || text.contains("exit status 9"), "{text}");
        stream_until(&mut stream, "start\\n").await;
        api.delete(&format!("{path}/services/{id}")).await.expect(200);
        stream_until(&mut stream, "\"status\":\"stopped\"").await;
        while stream.chunk().await.unwrap().is_some() {}
    })
    .await;
}

/// A path of a route with ids that have the right form and belong to nobody, or to `project`.
fn path(template: &str, project: &str) -> String {
    let id = "00000000000000000000000000";
    template
        .replace("{project_id}", project)
        .replace("{file_id}", &format!("file_{id}"))
        .replace("{service_id}", &format!("svc_{id}"))
        .replace("{command_id}", &format!("cmd_{id}"))
        .replace("{conversation_id}", &format!("conv_{id}"))
        .replace("{approval_id}", &format!("apr_{id}"))
        .replace("{key_id}", &format!("key_{id}"))
        .replace("{agent_id}", "dev_agent")
        .replace("{owner}", "somebody")
        .replace("{name}", "name")
        .replace("{number}", "1")
        .replace("{archive_id}", &format!("arc_{id}"))
}

/// E2B's control plane at the same process: a project's VM is a sandbox there, and keys that may not write stay out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_e2b_door_shows_the_vms_of_projects_to_their_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let stack = start(home.path()).await;
    let api = client(&stack);
    let project = api.project("two doors").await;
    api.shell(&project, "echo hello > seen.txt").await;
    let vm = api.get(&format!("{project}/status")).await.expect(200)["vm_id"].clone();
    let made = api.post("/api/keys", json!({"name": "reader", "scope": "read"})).await.expect(201);
    let door = format!("http://{}", stack.e2b_addr);
    let list = async |key: &str| {
        let request = api.http.get(format!("{door}/v2/sandboxes")).header("x-api-key", key);
        api.send(request).await
    };
    for key in [&stack.e2b_api_key, &stack.api_key] {
        let listed = list(key).await.expect(200);
        let ids: Vec<_> = listed.as_array().unwrap().iter().map(|one| &one["sandboxID"]).collect();
        assert!(ids.contains(&&vm), "{ids:?} has {vm}");
    }
    for key in ["", "e2b_0000000000000000000000000000000000000000", made["api_key"].as_str().unwrap()] {
        assert_eq!(list(key).await.status, 401, "{key}");
    }
    stack.shutdown(Shutdown::KillAll).await.unwrap();
}

/// RFC 9728: whoever comes without a good token is told where to get one, and finds it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mcp_client_without_a_token_is_led_to_the_issuer() {
    let issuer = |settings: &mut pvm_entry::Settings| {
        settings.oidc_issuer = Some("https://issuer.example".to_owned());
        settings.oidc_audience = Some("pvm".to_owned());
    };
    with_stack_of(issuer, async |api: Api| {
        let server = format!("{}/mcp", api.project("led").await);
        for key in ["", "pvm_wrong"] {
            let refused = api.with_key(key).post(&server, json!({})).await;
            let challenge = refused.header("www-authenticate").unwrap().to_owned();
            refused.problem(401, "unauthorized");
            let link = challenge.split("resource_metadata=\"").nth(1).unwrap().split('"').next().unwrap();
            assert!(challenge.starts_with("Bearer ") && challenge.contains("scope=\""), "{challenge}");
            let path =
                link.strip_prefix(&api.url).unwrap_or_else(|| panic!("{link} is not below {}", api.url));
            let document = api.with_key("").get(path).await.expect(200);
            assert_eq!(document["resource"], format!("{}{server}", api.url));
            assert_eq!(document["authorization_servers"], json!(["https://issuer.example"]));
        }
        let whole = api.with_key("").get("/.well-known/oauth-protected-resource").await.expect(200);
        assert_eq!(whole["resource"], api.url);
        let other = api.with_key("").get("/api/projects").await;
        assert!(
            !other.header("www-authenticate").unwrap().contains("resource_metadata"),
            "only MCP clients ask for it"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_opens_without_a_good_token_or_to_a_stranger() {
    let home = tempfile::tempdir().unwrap();
    let stack = start(home.path()).await;
    let owner = client(&stack);
    let project = owner.project("private").await;
    let id = project.rsplit('/').next().unwrap();
    let secret = pvm_application::keys_admin::new_secret().unwrap();
    let stranger = OwnerId::parse("stranger").unwrap();
    pvm_application::keys_admin::ensure(&stack.app.store, &stack.app.ambient, &stranger, "s", &secret)
        .await
        .unwrap();
    let (nobody, wrong, stranger) =
        (owner.with_key(""), owner.with_key("pvm_wrong"), owner.with_key(&secret));
    for route in ROUTES.iter().filter(|route| route.auth != Auth::Open) {
        let path = path(route.path, id);
        for api in [&nobody, &wrong] {
            let answer = api.send(api.request(route.method.clone(), &path).json(&json!({}))).await;
            assert!(answer.header("www-authenticate").is_some(), "{} {path}", route.method);
            answer.problem(401, "unauthorized");
        }
        if route.path.contains("{project_id}") {
            let answer = stranger.send(stranger.request(route.method.clone(), &path).json(&json!({}))).await;
            // What the stranger sends may be refused before anything is looked up; the project must not show.
            assert!(
                matches!(answer.status, 404 | 400 | 405 | 415 | 422)
                    && !answer.body.to_string().contains("private"),
                "{} {path}: {} {}",
                route.method,
                answer.status,
                answer.body
            );
        }
    }
    assert_eq!(owner.get(&project).await.expect(200)["name"], "private");
    stack.shutdown(Shutdown::KillAll).await.unwrap();
}
