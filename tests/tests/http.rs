//! The HTTP API over a whole stack in process: every route's door, every kind of bad input, and the stories.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "http/private_git.rs"]
mod private_git;

use pvm_api::routes::{Auth, ROUTES};
use pvm_domain::ids::OwnerId;
use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use pvm_tests::scenarios::{commands, files, input, projects, secrets, services};
use pvm_tests::stack::{client, start, with_stack};
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
    files_go_both_ways: files::both_ways;
    the_workspace_outlives_its_vm: files::outlive_the_vm;
    an_upload_in_parts_is_one_file: files::in_parts;
    versions_are_kept_and_brought_back: files::versions;
    links_and_permission_bits_are_kept: files::links_and_modes;
    the_workspace_is_downloaded_as_one_archive: files::archive;
    a_secret_is_set_and_never_read_back: secrets::crud;
    a_secret_is_in_force_for_its_host_and_never_inside: secrets::in_force;
    a_web_server_is_a_service: services::web_server;
    a_service_that_ends_at_once_has_failed_and_says_why: services::failure;
    services_come_back_on_a_new_vm: services::brought_back;
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
