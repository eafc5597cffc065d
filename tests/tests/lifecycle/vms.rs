//! VMs beside what their provider, their services' visitors and their own set-up do to them.

use std::time::Duration;

use pvm_application::ports::{EndVm, FindVm};
use pvm_application::vm::{lease, provision, recipe};
use pvm_domain::ids::OperationId;
use pvm_domain::limits;
use pvm_domain::vm::{InstallStep, VmStatus};
use pvm_tests::scenarios::services::fetch;
use serde_json::json;

use super::*;

const SERVER: &str = "exec python3 -m http.server $PORT";

async fn web(api: &Api, path: &str) -> serde_json::Value {
    let asked = json!({"name": "web", "command": SERVER, "port": 8000});
    api.post(&format!("{path}/services"), asked).await.expect(201);
    until(api, path, "web", "running").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_may_idle_for_long_is_kept_awake_and_is_idle_all_the_same() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let asked = json!({"name": "patient", "vm_idle_secs": 7_200});
        let made = api.post("/api/projects", asked).await.expect(201);
        let path = format!("/api/projects/{}", made["project_id"].as_str().unwrap());
        api.shell(&path, "true").await;
        let half = i64::try_from(limits::VM_TIMEOUT_SECS / 2).unwrap();
        assert_eq!(sweep(&stack, clock.by(half - 60)).await.extended, 0);
        // Its provider would pause it after an hour.
        for passed in [half, 2 * half, 3 * half] {
            let counts = sweep(&stack, clock.by(passed + 10)).await;
            assert_eq!((counts.extended, counts.paused), (1, 0), "{passed}: {counts:?}");
        }
        let counts = sweep(&stack, clock.by(7_300)).await;
        assert_eq!((counts.extended, counts.paused), (0, 1), "{counts:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_whose_set_up_failed_is_counted_and_paused_like_any_other() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("half made").await;
        api.shell(&path, "true").await;
        let failed = |lease: &mut pvm_domain::vm::VmLease| {
            lease.finish(VmStatus::Failed, Some("no more".to_owned()));
            Ok(true)
        };
        lease::change(&stack.app.store, &clock, &id_of(&path), failed).await.unwrap();
        assert_eq!(limit(&api, "vms_running").await.1, 1, "it takes up a machine");
        assert_eq!(sweep(&stack, clock.by(100)).await.paused, 0);
        assert_eq!(sweep(&stack, clock.by(1_000)).await.paused, 1);
        assert_eq!(limit(&api, "vms_running").await.1, 0);
        let vms = stack.app.vm.vms(None).await.unwrap();
        assert!(vms.iter().all(|vm| vm.paused) && vms.len() == 1, "{vms:?}");
        assert_eq!(api.shell(&path, "echo up").await, "up\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_says_that_its_operation_is_alive() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("slow").await;
        let (store, project) = (&stack.app.store, id_of(&path));
        let operation: OperationId = System.new_id();
        let begin = |lease: &mut pvm_domain::vm::VmLease| {
            lease.begin(operation.clone(), VmStatus::Starting, clock.now()).unwrap();
            Ok(true)
        };
        lease::change(store, &clock, &project, begin).await.unwrap();
        // Three steps, each shorter than what an operation may be silent, together far longer.
        for passed in [600, 1_200, 1_800] {
            assert_eq!(sweep(&stack, clock.by(passed)).await.operations, 0, "{passed}");
            provision::of_operation(store, &clock, &project, &operation).await.unwrap();
        }
        // Silent for too long, it is given up, and its next step ends it.
        assert_eq!(sweep(&stack, clock.by(1_800 + 901)).await.operations, 1);
        provision::of_operation(store, &clock, &project, &operation).await.unwrap_err();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_vm_that_its_provider_has_no_more_is_told_and_forgotten() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let (seen, unseen) = (api.project("asked for").await, api.project("not asked for").await);
        for path in [&seen, &unseen] {
            api.shell(path, "echo kept > kept").await;
            api.post(&format!("{path}/vm/pause"), json!({})).await.expect(200);
            let vm_id = status(&api, path).await["vm_id"].as_str().unwrap().to_owned();
            assert_eq!(status(&api, path).await["vm_status"], "paused");
            stack.app.vm.kill_vm(&vm_id).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(limits::STATUS_KEPT_MILLIS)).await;
        assert_eq!(status(&api, &seen).await["vm_status"], "none");
        sweep(&stack, clock.by(7 * 3_600)).await;
        let lease = lease::load(&stack.app.store, &clock, &id_of(&unseen)).await.unwrap();
        assert_eq!((lease.state, lease.vm_id), (VmStatus::None, None));
        assert_eq!(api.shell(&unseen, "cat kept").await, "kept\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_browsed_keeps_its_vm_awake_and_wakes_it() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("browsed").await;
        let project = id_of(&path);
        api.shell(&path, "echo hello > index.html").await;
        let url = web(&api, &path).await["url"].as_str().unwrap().to_owned();
        // Nobody has asked the API for long; somebody reads the page.
        let long_ago = |lease: &mut pvm_domain::vm::VmLease| {
            lease.last_activity = System.now() - jiff::SignedDuration::from_secs(10_000);
            Ok(true)
        };
        lease::change(&stack.app.store, &clock, &project, long_ago).await.unwrap();
        assert_eq!(fetch(&api, &url).await, (200, "hello\n".to_owned()));
        assert_eq!(sweep(&stack, &clock).await.paused, 0, "it is in use");
        assert_eq!(sweep(&stack, clock.by(1_000)).await.paused, 1, "and then no more");
        assert_eq!(status(&api, &path).await["vm_status"], "paused");
        // The link works all the same, and the VM is taken into use.
        assert_eq!(fetch(&api, &url).await, (200, "hello\n".to_owned()));
        assert_eq!(sweep(&stack, &clock).await.operations, 1);
        while status(&api, &path).await["vm_status"] != "active" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        until(&api, &path, "web", "running").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_stopped_while_its_vm_is_paused_does_not_come_back() {
    with_clock(async |_: Arc<Stack>, api: Api, _: Later| {
        let path = api.project("stopped").await;
        let id = web(&api, &path).await["service_id"].as_str().unwrap().to_owned();
        api.post(&format!("{path}/vm/pause"), json!({})).await.expect(200);
        api.delete(&format!("{path}/services/{id}")).await.expect(200);
        assert_eq!(api.get(&format!("{path}/services")).await.expect(200)["items"], json!([]));
        let listens = json!({"command": "(exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null"});
        assert_ne!(api.run(&path, listens).await["exit_code"], 0, "something still listens");
        web(&api, &path).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_that_cannot_be_repeated_is_told() {
    with_clock(async |stack: Arc<Stack>, api: Api, _: Later| {
        let path = api.project("installs").await;
        let (store, project) = (&stack.app.store, id_of(&path));
        let step = |command: &str| InstallStep {
            command: command.to_owned(),
            working_dir: "/".to_owned(),
            user: "root".to_owned(),
            epoch: 0,
        };
        for line in ["echo no such package >&2; exit 3", "touch /opt/installed"] {
            recipe::record(store, &project, step(line)).await.unwrap();
        }
        assert_eq!(status(&api, &path).await["failed_installs"], json!([]));
        // The project comes up without it.
        assert_eq!(api.shell(&path, "ls /opt/installed").await, "/opt/installed\n");
        let told = status(&api, &path).await["failed_installs"].clone();
        assert_eq!((told.as_array().unwrap().len(), &told[0]["exit_code"]), (1, &json!(3)), "{told}");
        assert_eq!(told[0]["output"], "no such package");
        let events = api.events(&format!("{path}/events")).await;
        let failed: Vec<_> = events.iter().filter(|event| event["type"] == "vm.install_failed").collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0]["data"], told[0]);
    })
    .await;
}
