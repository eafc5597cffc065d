//! The VM's provider down, silent, or asking to slow down: clear errors and states, nothing lost, and the next try works.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use pvm_application::{cleanup, keys_admin};
use pvm_entry::System;
use pvm_entry::settings::Secret;
use pvm_local::{Stack, StackConfig};
use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use pvm_tests::faulty::{Faulty, Mode};
use pvm_tests::scenarios::services::until;
use pvm_tests::stack::{client, settings};
use serde_json::{Value, json};

/// A stack that reaches its own sandbox server through the proxy only, as it would reach a provider elsewhere.
async fn with_provider<F>(test: impl FnOnce(Arc<Stack>, Api, Faulty) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let home = tempfile::tempdir().unwrap();
    let faulty = Faulty::start().await;
    let key = keys_admin::new_e2b_secret().unwrap();
    let mut settings = settings(home.path());
    settings.e2b_api_key = Some(Secret::new(key.clone()));
    settings.e2b_api_url = Some(format!("http://{}", faulty.addr));
    settings.e2b_sandbox_url = Some(format!("http://{}", faulty.addr));
    let mut config = StackConfig::new(settings);
    config.build_base = false;
    config.sweep_every = Duration::from_hours(1);
    let stack = Arc::new(Stack::start(config).await.unwrap());
    let owner = pvm_domain::ids::OwnerId::parse("local").unwrap();
    keys_admin::ensure(&stack.app.store, &System, &owner, "provider", &key).await.unwrap();
    faulty.aim(stack.e2b_addr);
    let result = tokio::spawn(test(Arc::clone(&stack), client(&stack), faulty.clone())).await;
    faulty.set(Mode::Pass);
    let stack = Arc::into_inner(stack).unwrap();
    stack.shutdown(Shutdown::KillAll).await.unwrap();
    if let Err(failed) = result {
        std::panic::resume_unwind(failed.into_panic());
    }
}

async fn status(api: &Api, path: &str) -> Value {
    api.get(&format!("{path}/status")).await.expect(200)
}

async fn until_stale(api: &Api, path: &str, stale: bool) -> Value {
    loop {
        let status = status(api, path).await;
        if status["stale"] == stale {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_given_while_the_provider_is_away_runs_once_when_it_is_back() {
    with_provider(async |_stack: Arc<Stack>, api: Api, provider: Faulty| {
        for mode in [Mode::Down, Mode::Busy] {
            provider.set(mode);
            let path = api.project("away").await;
            let asked = json!({"command": "echo ran >> ran; cat ran", "wait_secs": 1});
            let accepted = api.post(&format!("{path}/vm/command"), asked).await.expect(202);
            assert_eq!(status(&api, &path).await["vm_status"], "starting", "{mode:?}");
            provider.set(Mode::Pass);
            let id = accepted["command_id"].as_str().unwrap();
            let ended = loop {
                let seen = api.get(&format!("{path}/vm/commands/{id}?wait=20")).await.expect(200);
                if seen["status"] != "running" {
                    break seen;
                }
            };
            assert_eq!(
                (ended["status"].as_str(), ended["stdout"].as_str()),
                (Some("exited"), Some("ran\n")),
                "{mode:?}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_goes_away_makes_the_status_stale_and_loses_nothing() {
    with_provider(async |stack: Arc<Stack>, api: Api, provider: Faulty| {
        let path = api.project("stale").await;
        let web = json!({"name": "web", "command": "python3 -m http.server $PORT", "port": 8000});
        api.post(&format!("{path}/services"), web).await.expect(201);
        let line = json!({"command": "until [ -e go ]; do sleep 0.05; done; echo went", "background": true});
        let made = api.post(&format!("{path}/vm/command"), line).await.expect(202);
        let command = format!("{path}/vm/commands/{}", made["command_id"].as_str().unwrap());
        let known = until_stale(&api, &path, false).await;
        for mode in [Mode::Down, Mode::Silent, Mode::Busy] {
            provider.set(mode);
            let stale = until_stale(&api, &path, true).await;
            // From the records, and marked as such.
            assert_eq!(
                (&stale["vm_status"], &stale["vm_id"]),
                (&json!("active"), &known["vm_id"]),
                "{mode:?}"
            );
            assert_eq!(stale["services"][0]["status"], "running", "{mode:?}: {stale}");
            assert!(stale["resources"].is_null(), "{mode:?}: {stale}");
            provider.set(Mode::Pass);
            let back = until_stale(&api, &path, false).await;
            assert_eq!(back["vm_id"], known["vm_id"], "{mode:?}: it is the same VM");
            assert!(back["resources"].is_object(), "{mode:?}: {back}");
        }
        // Without a certain list of VMs none is taken for a stray, and the round goes on.
        provider.set(Mode::Down);
        let app = &stack.app;
        let kept = cleanup::Kept::default();
        let swept = cleanup::sweep(&app.store, &app.objects, &app.workflow, &app.vm, &System, &kept).await;
        let counts = swept.unwrap();
        assert_eq!((counts.strays, counts.errors), (0, 1), "{counts:?}");
        // A service's start that cannot be asked for says so; it is known, and started once the provider is back.
        let late =
            json!({"name": "late", "command": "echo x >> starts; sleep 1000", "ready": {"log_line": "x"}});
        let refused = api.post(&format!("{path}/services"), late).await;
        assert!(refused.header("retry-after").is_some(), "{}", refused.body);
        refused.problem(503, "unavailable");
        provider.set(Mode::Pass);
        assert_eq!(status(&api, &path).await["vm_id"], known["vm_id"]);
        api.shell(&path, "touch go").await;
        while api.get(&format!("{command}?wait=20")).await.expect(200)["status"] == "running" {}
        assert_eq!(api.get(&command).await.expect(200)["stdout"], "went\n");
        let late = until(&api, &path, "web", "running").await;
        assert_eq!(late["status"], "running");
        while api.run(&path, json!({"command": "test -e starts"})).await["exit_code"] != 0 {
            api.get(&format!("{path}/services")).await.expect(200);
        }
        assert_eq!(api.shell(&path, "cat starts").await, "x\n", "it was started once");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_provider_is_waited_for() {
    with_provider(async |_stack: Arc<Stack>, api: Api, provider: Faulty| {
        provider.set(Mode::Slow);
        let path = api.project("slow").await;
        assert_eq!(api.shell(&path, "echo once >> ran; cat ran").await, "once\n");
        let web = json!({"name": "web", "command": "exec python3 -m http.server $PORT", "port": 8000});
        api.post(&format!("{path}/services"), web).await.expect(201);
        until(&api, &path, "web", "running").await;
        // Slow is not away.
        let status = status(&api, &path).await;
        assert_eq!((&status["stale"], &status["vm_status"]), (&json!(false), &json!("active")), "{status}");
        assert!(status["resources"].is_object(), "{status}");
        api.post(&format!("{path}/vm/pause"), json!({})).await.expect(200);
        assert_eq!(api.shell(&path, "cat ran").await, "once\n");
    })
    .await;
}
