//! Commands beside what happens to their VM: none is told wrongly, none runs twice, none keeps a VM from being looked
//! after.

use std::time::Duration;

use pvm_application::ports::{EndVm, FindVm};
use pvm_application::vm::lease;
use serde_json::{Value, json};

use super::*;

/// Waits for the end of a command that was accepted.
async fn end_of(api: &Api, path: &str, accepted: &Value) -> Value {
    let command = format!("{path}/vm/commands/{}", accepted["command_id"].as_str().unwrap());
    loop {
        let seen = api.get(&format!("{command}?wait=20")).await.expect(200);
        if seen["status"] != "running" {
            return seen;
        }
    }
}

/// Pauses the sandbox at its server, past the project's records; without its memory where `files_only`.
async fn pause_at_provider(stack: &Stack, vm_id: &str, files_only: bool) {
    if !files_only {
        return stack.app.vm.pause_vm(vm_id).await.unwrap();
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/sandboxes/{vm_id}/pause", stack.e2b_addr);
    let asked = http.post(url).header("x-api-key", &stack.e2b_api_key).json(&json!({"memory": false}));
    assert_eq!(asked.send().await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_be_started_ends_and_holds_nobody_up() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("nope").await;
        let line =
            |command: &str, dir: &str| json!({"command": command, "working_dir": dir, "background": true});
        let url = format!("{path}/vm/command");
        // Accepted before there is a VM, in this order.
        let bad = api.post(&url, line("true", "/nope")).await.expect(202);
        let good = api.post(&url, line("echo fine", "/workspace")).await.expect(202);
        let ended = end_of(&api, &path, &bad).await;
        assert_eq!((&ended["status"], &ended["exit_code"]), (&json!("exited"), &json!(126)), "{ended}");
        assert!(ended["stderr"].as_str().unwrap().contains("/nope"), "{ended}");
        assert_eq!(end_of(&api, &path, &good).await["stdout"], "fine\n");
        // The same in a VM that is there, with an answer at once.
        let now = api.post(&url, json!({"command": "true", "working_dir": "/nope"})).await.expect(200);
        assert_eq!((&now["status"], &now["exit_code"]), (&json!("exited"), &json!(126)), "{now}");
        let kept = api.delete(&format!("{path}/vm/commands/{}", bad["command_id"].as_str().unwrap())).await;
        assert_eq!(kept.expect(200)["status"], "exited");
        // Nothing holds the VM.
        let lease = lease::load(&stack.app.store, &clock, &id_of(&path)).await.unwrap();
        assert!(lease.holders.is_empty(), "{:?}", lease.holders);
        api.post(&format!("{path}/vm/pause"), json!({})).await.expect(200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_command_holds_its_vm_though_its_caller_is_gone() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("gone caller").await;
        api.shell(&path, "true").await;
        let line = json!({"command": "echo $$ > pid; sleep 86000", "timeout_secs": 86_400});
        let asked = api.request(reqwest::Method::POST, &format!("{path}/vm/command")).json(&line);
        let waiting = tokio::spawn(asked.send());
        while api.run(&path, json!({"command": "test -s pid"})).await["exit_code"] != 0 {}
        waiting.abort();
        let lease = lease::load(&stack.app.store, &clock, &id_of(&path)).await.unwrap();
        assert_eq!(lease.holders.len(), 1, "{lease:?}");
        let counts = sweep(&stack, clock.by(1_000)).await;
        assert_eq!((counts.paused, counts.extended), (0, 1), "{counts:?}");
        assert_eq!(api.shell(&path, "kill -0 $(cat pid) && echo alive").await, "alive\n");
        // A command that ends within the idle time holds nothing while it is waited for, and nothing is left of either.
        api.shell(&path, "kill $(cat pid)").await;
        let id = lease.holders.first().unwrap();
        while api.get(&format!("{path}/vm/commands/{id}?wait=5")).await.expect(200)["status"] == "running" {}
        let lease = lease::load(&stack.app.store, &clock, &id_of(&path)).await.unwrap();
        assert!(lease.holders.is_empty(), "{lease:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_in_a_vm_that_its_provider_paused() {
    with_clock(async |stack: Arc<Stack>, api: Api, _: Later| {
        let path = api.project("provider's clock").await;
        let line = json!({"command": "until [ -e go ]; do sleep 0.05; done; echo went", "background": true,
            "timeout_secs": 3_600});
        let made = api.post(&format!("{path}/vm/command"), line).await.expect(202);
        let before = loop {
            let status = status(&api, &path).await;
            if status["vm_status"] == "active" {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        pause_at_provider(&stack, before["vm_id"].as_str().unwrap(), false).await;
        api.shell(&path, "touch go").await;
        let ended = end_of(&api, &path, &made).await;
        assert_eq!((&ended["status"], &ended["stdout"]), (&json!("exited"), &json!("went\n")), "{ended}");
        let after = status(&api, &path).await;
        assert_eq!((&after["vm_id"], &after["epoch"]), (&before["vm_id"], &before["epoch"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_had_ended_is_told_so_after_a_new_boot() {
    with_clock(async |stack: Arc<Stack>, api: Api, _: Later| {
        let path = api.project("new boot").await;
        api.shell(&path, "true").await;
        let url = format!("{path}/vm/command");
        let done = json!({"command": "echo done; touch ended", "background": true});
        let done = api.post(&url, done).await.expect(202);
        let open = json!({"command": "sleep 3000", "background": true, "timeout_secs": 3_600});
        let open = api.post(&url, open).await.expect(202);
        while api.run(&path, json!({"command": "test -e ended"})).await["exit_code"] != 0 {}
        let before = status(&api, &path).await;
        let vm_id = before["vm_id"].as_str().unwrap();
        // Nobody has looked at either since. Only the files are kept.
        pause_at_provider(&stack, vm_id, true).await;
        assert_eq!(api.shell(&path, "echo back").await, "back\n");
        let after = status(&api, &path).await;
        assert_eq!(after["vm_id"], before["vm_id"]);
        assert!(after["epoch"].as_u64() > before["epoch"].as_u64(), "its processes are new");
        let done = end_of(&api, &path, &done).await;
        assert_eq!((&done["status"], &done["stdout"]), (&json!("exited"), &json!("done\n")), "{done}");
        // The other one was ended with the boot, and its journal saw how.
        let open = end_of(&api, &path, &open).await;
        assert_eq!((&open["status"], &open["exit_code"]), (&json!("exited"), &json!(null)), "{open}");
        assert!(open["signal"].is_number(), "{open}");
        // A VM that is gone for good takes its commands with it.
        let line = json!({"command": "sleep 3000", "background": true, "timeout_secs": 3_600});
        let lost = api.post(&url, line).await.expect(202);
        stack.app.vm.kill_vm(vm_id).await.unwrap();
        assert_eq!(end_of(&api, &path, &lost).await["status"], "lost");
        assert_eq!(stack.app.vm.vms(None).await.unwrap(), []);
    })
    .await;
}
