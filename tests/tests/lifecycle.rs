//! Clean-up by the clock over a whole stack: idle VMs, VMs paused for long, VMs in use, VMs of nobody, deletions that
//! were interrupted. The clock is the test's: no test waits for time to pass.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "lifecycle/commands.rs"]
mod commands;
#[path = "lifecycle/vms.rs"]
mod vms;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pvm_application::cleanup::{self, Counts, Kept};
use pvm_application::ports::{
    Clock, CreateVm, FindVm, Machine, NewId, NewVm, StartExecution, Started, WorkflowError,
};
use pvm_application::store::{Purge, ReadStore, Tx, WriteStore};
use pvm_application::{keys, projects};
use pvm_domain::Timestamp;
use pvm_domain::event::LogId;
use pvm_domain::ids::{OwnerId, PrefixedId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_entry::System;
use pvm_local::Stack;
use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use pvm_tests::scenarios::fair_use::limit;
use pvm_tests::scenarios::services::until;
use pvm_tests::stack::{client, start};
use serde_json::{Value, json};

/// The system's clock, set forward.
#[derive(Clone, Default)]
struct Later {
    secs: Arc<AtomicI64>,
}

impl Later {
    fn by(&self, secs: i64) -> &Self {
        self.secs.store(secs, Ordering::Relaxed);
        self
    }
}

impl Clock for Later {
    fn now(&self) -> Timestamp {
        System.now() + jiff::SignedDuration::from_secs(self.secs.load(Ordering::Relaxed))
    }
    async fn sleep(&self, time: Duration) {
        System.sleep(time).await;
    }
}

impl NewId for Later {
    fn new_id<I: PrefixedId>(&self) -> I {
        System.new_id()
    }
}

async fn sweep(stack: &Stack, clock: &Later) -> Counts {
    let app = &stack.app;
    let kept = Kept::default();
    let counts =
        cleanup::sweep(&app.store, &app.objects, &app.workflow, &app.vm, clock, &kept).await.unwrap();
    assert_eq!(counts.errors, 0, "{counts:?}");
    counts
}

async fn status(api: &Api, path: &str) -> Value {
    api.get(&format!("{path}/status")).await.expect(200)
}

async fn with_clock<F>(test: impl FnOnce(Arc<Stack>, Api, Later) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let home = tempfile::tempdir().unwrap();
    let stack = Arc::new(start(home.path()).await);
    let result = tokio::spawn(test(Arc::clone(&stack), client(&stack), Later::default())).await;
    let stack = Arc::into_inner(stack).unwrap();
    stack.shutdown(Shutdown::KillAll).await.unwrap();
    if let Err(failed) = result {
        std::panic::resume_unwind(failed.into_panic());
    }
}

fn id_of(path: &str) -> ProjectId {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_vm_is_paused_then_ended_and_any_use_brings_it_back() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let asked = json!({"name": "idle", "vm_idle_secs": 120, "vm_paused_secs": 3_600});
        let made = api.post("/api/projects", asked).await.expect(201);
        let path = format!("/api/projects/{}", made["project_id"].as_str().unwrap());
        api.shell(&path, "echo kept > kept.txt").await;
        let web = json!({"name": "web", "command": "python3 -m http.server $PORT", "port": 8000});
        api.post(&format!("{path}/services"), web).await.expect(201);
        let first = status(&api, &path).await["vm_id"].clone();

        assert_eq!(sweep(&stack, clock.by(100)).await.paused, 0, "before its time");
        assert_eq!(sweep(&stack, clock.by(180)).await.paused, 1, "its own clock, not the default of 900 s");
        assert_eq!(status(&api, &path).await["vm_status"], "paused");
        assert_eq!(limit(&api, "vms_running").await.1, 0);
        // Any use resumes it: the same VM, and its processes.
        assert_eq!(api.shell(&path, "cat kept.txt").await, "kept\n");
        assert_eq!(status(&api, &path).await["vm_id"], first);
        until(&api, &path, "web", "running").await;

        // A project's clock can be set while its VM runs.
        api.put(&path, json!({"vm_idle_secs": 600})).await.expect(200);
        assert_eq!(sweep(&stack, clock.by(500)).await.paused, 0);
        assert_eq!(sweep(&stack, clock.by(700)).await.paused, 1);
        assert_eq!(sweep(&stack, clock.by(700 + 3_000)).await.ended, 0, "kept for an hour");
        assert_eq!(sweep(&stack, clock.by(700 + 4_000)).await.ended, 1);
        while status(&api, &path).await["vm_status"] != "none" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // A new VM, with the files and services of the one before.
        assert_eq!(api.shell(&path, "cat kept.txt").await, "kept\n");
        assert_ne!(status(&api, &path).await["vm_id"], first);
        until(&api, &path, "web", "running").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_a_command_uses_is_not_paused_under_it() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("busy").await;
        let line = json!({"command": "sleep 86000", "background": true, "timeout_secs": 86_400});
        let made = api.post(&format!("{path}/vm/command"), line).await.expect(202);
        let id = made["command_id"].as_str().unwrap();
        while status(&api, &path).await["vm_status"] != "active" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let before = stack.app.vm.vms(None).await.unwrap()[0].ends_at.unwrap();
        let counts = sweep(&stack, clock.by(1_000)).await;
        assert_eq!((counts.paused, counts.extended), (0, 1), "{counts:?}");
        assert!(
            stack.app.vm.vms(None).await.unwrap()[0].ends_at.unwrap() >= before,
            "its provider gave it more time"
        );
        assert_eq!(api.get(&format!("{path}/vm/commands/{id}")).await.expect(200)["status"], "running");
        api.delete(&format!("{path}/vm/commands/{id}")).await;
        while api.get(&format!("{path}/vm/commands/{id}?wait=5")).await.expect(200)["status"] == "running" {}
        assert_eq!(sweep(&stack, clock.by(3_000)).await.paused, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_vms_of_our_own_deployment_that_nobody_owns_are_ended() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("owner").await;
        api.shell(&path, "true").await;
        let new = |project: &ProjectId| NewVm {
            project_id: project.to_string(),
            template: None,
            env: std::collections::BTreeMap::new(),
            timeout_secs: 600,
            egress: Vec::new(),
        };
        let nobody: ProjectId = System.new_id();
        let stray = stack.app.vm.create_vm(&new(&nobody)).await.unwrap();
        // A second one of a project that has another: its creation was noted nowhere.
        let double = stack.app.vm.create_vm(&new(&id_of(&path))).await.unwrap();
        let key = secret(&stack);
        let other =
            pvm_sandbox::VmClient::new(pvm_sandbox::VmClientConfig::local(stack.e2b_addr, key, "another"));
        let other = other.unwrap();
        let foreign = other.create_vm(&new(&nobody)).await.unwrap();

        assert_eq!(sweep(&stack, &clock).await.strays, 2);
        for gone in [&stray, &double] {
            assert_eq!(stack.app.vm.vm(&gone.vm_id).await.unwrap(), None);
        }
        assert!(
            other.vm(&foreign.vm_id).await.unwrap().is_some(),
            "another deployment's VM is not ours to end"
        );
        assert_eq!(status(&api, &path).await["vm_status"], "active");
        assert_eq!(sweep(&stack, &clock).await.strays, 0);
    })
    .await;
}

const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_commands_and_deleted_files_go_while_the_project_lives_on() {
    use pvm_application::ports::DeleteObject;
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("old").await;
        let project = id_of(&path);
        let long =
            api.run(&path, json!({"command": "seq 1 200000; echo kept > kept.txt; echo x > gone.txt"})).await;
        let id = long["command_id"].as_str().unwrap().to_owned();
        while api.get(&format!("{path}/files")).await.expect(200)["items"].as_array().unwrap().len() < 2 {}
        api.shell(&path, "rm gone.txt").await;
        let deleted = loop {
            let listed = api.get(&format!("{path}/files?deleted=true")).await.expect(200);
            if let Some(one) = listed["items"].as_array().unwrap().first() {
                break one.clone();
            }
        };
        assert_eq!(deleted["path"], "gone.txt");
        assert!(deleted["deleted_at"].is_string(), "{deleted}");

        let counts = sweep(&stack, clock.by(6 * DAY)).await;
        assert_eq!((counts.commands, counts.deleted_files), (0, 0), "before their time");
        let counts = sweep(&stack, clock.by(8 * DAY)).await;
        assert_eq!((counts.commands, counts.deleted_files), (0, 1), "{counts:?}");
        assert_eq!(api.get(&format!("{path}/files?deleted=true")).await.expect(200)["items"], json!([]));
        assert_eq!(sweep(&stack, clock.by(29 * DAY)).await.commands, 0);
        api.get(&format!("{path}/vm/commands/{id}")).await.expect(200);
        let counts = sweep(&stack, clock.by(31 * DAY)).await;
        assert_eq!(counts.commands, 2, "{counts:?}");
        api.get(&format!("{path}/vm/commands/{id}")).await.problem(404, "not_found");
        let prefix = format!("c/{project}/");
        assert_eq!(
            stack.app.objects.delete_prefix(&prefix, 100).await.unwrap(),
            0,
            "its output went with it"
        );
        assert_eq!(sweep(&stack, clock.by(40 * DAY)).await.commands, 0);
        while status(&api, &path).await["vm_status"] != "none" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The project is as it was, on a new VM.
        assert_eq!(
            api.shell(&path, "cat kept.txt; ls gone.txt 2>&1 || true").await.lines().next(),
            Some("kept")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_old_commands_go_in_bounded_batches() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        use pvm_domain::command::{Command, CommandSpec, CommandStatus, KeptOutput};
        let path = api.project("many").await;
        let project = id_of(&path);
        let command = |finished_at| Command {
            project_id: project.clone(),
            command_id: System.new_id(),
            spec: CommandSpec::new("true"),
            status: if finished_at { CommandStatus::Exited } else { CommandStatus::Running },
            epoch: None,
            kill_requested: false,
            exit_code: Some(0),
            signal: None,
            stdout: KeptOutput::default(),
            stderr: KeptOutput::default(),
            duration_ms: None,
            created_at: System.now(),
            finished_at: finished_at.then(|| System.now()),
            version: 0,
        };
        for _ in 0..10 {
            let tx = (0..50).fold(Tx::new(), |tx, n| tx.create(&mut command(n > 0)));
            stack.app.store.commit(tx).await.unwrap();
        }
        // One whose end nobody noted may still run for a day.
        let rounds = [sweep(&stack, clock.by(30 * DAY + 600)).await, sweep(&stack, &clock).await];
        let gone: Vec<u32> = rounds.iter().map(|counts| counts.commands).collect();
        assert!(gone.iter().all(|gone| (1..=400).contains(gone)), "{gone:?}");
        let mut all: u32 = gone.iter().sum();
        for _ in 0..5 {
            all += sweep(&stack, &clock).await.commands;
        }
        assert_eq!(all, 490);
        assert_eq!(sweep(&stack, clock.by(32 * DAY)).await.commands, 10);
    })
    .await;
}

fn secret(stack: &Stack) -> pvm_e2b_wire::secret::Secret {
    pvm_e2b_wire::secret::Secret::new(stack.e2b_api_key.clone())
}

/// A workflow engine that is away: what is started through it is lost.
struct Away;

impl StartExecution for Away {
    async fn start(&self, _: Machine, _: &str, _: &Value) -> Result<Started, WorkflowError> {
        Err(WorkflowError::Unavailable(anyhow::anyhow!("away")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_interrupted_ends_with_nothing_left() {
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("to be deleted").await;
        let project = id_of(&path);
        api.shell(&path, "seq 1 200000; echo hello > hello.txt").await;
        let sleeper = json!({"name": "sleeper", "command": "sleep 1000"});
        api.post(&format!("{path}/services"), sleeper).await.expect(201);
        let asked = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm echo hi\n/vm sleep 600",
            "conversation_id": "to-be-deleted"});
        let made = api.post(&format!("{path}/conversations"), asked).await.expect(201);
        let conversation = made["conversation_id"].as_str().unwrap().parse().unwrap();
        while api.get(&format!("{path}/files")).await.expect(200)["items"] == json!([]) {}

        // It is marked, but the workflow's start is lost.
        let owner = OwnerId::parse("local").unwrap();
        let principal = Principal { owner: owner.clone(), scope: Scope::Admin, projects: None };
        let store = &stack.app.store;
        projects::delete(store, &Away, &System, &principal, &project).await.unwrap();
        api.get(&path).await.problem(404, "not_found");
        assert_eq!(sweep(&stack, clock.by(10)).await.deletions, 1, "looked at; its own start may still come");
        assert!(store.get::<Project>(&keys::project(&project)).await.unwrap().is_some());
        // When its time is over, the clean-up starts it again.
        sweep(&stack, clock.by(1_000)).await;
        while store.get::<Project>(&keys::project(&project)).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        assert_eq!(stack.app.vm.vms(Some(project.as_str())).await.unwrap(), []);
        let partitions = [keys::project_partition(&project), keys::conversation_partition(&conversation)];
        for pk in partitions {
            assert_eq!(store.purge(Purge::Records { pk: pk.clone(), keep: None }, 100).await.unwrap(), 0, "{pk}");
        }
        for log in [LogId::Project(project.clone()), LogId::Conversation(conversation)] {
            assert_eq!(store.purge(Purge::Log(log.clone()), 100).await.unwrap(), 0, "{log:?}");
        }
        use pvm_application::ports::DeleteObject;
        for prefix in [format!("p/{project}/"), format!("c/{project}/")] {
            assert_eq!(stack.app.objects.delete_prefix(&prefix, 100).await.unwrap(), 0, "{prefix}");
        }
        for name in ["vms_running", "services", "conversations_running", "storage_bytes"] {
            assert_eq!(limit(&api, name).await.1, 0, "{name} is given back");
        }
        // The client's own name for the conversation is free again.
        let again = api.project("again").await;
        let asked = json!({"agent_ids": ["dev_agent"], "initial_message": "/vm true", "conversation_id": "to-be-deleted"});
        api.post(&format!("{again}/conversations"), asked).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_interrupted_between_files_and_records_goes_on() {
    use pvm_application::erase;
    use pvm_application::ports::DeleteObject;
    with_clock(async |stack: Arc<Stack>, api: Api, clock: Later| {
        let path = api.project("half deleted").await;
        let project = id_of(&path);
        let upload = api.request(reqwest::Method::POST, &format!("{path}/files?path=a.txt"));
        let upload = upload.header("content-type", "application/octet-stream").body("hello");
        api.send(upload).await.expect(201);
        let owner = OwnerId::parse("local").unwrap();
        let principal = Principal { owner, scope: Scope::Admin, projects: None };
        let (store, objects) = (&stack.app.store, &stack.app.objects);
        projects::delete(store, &Away, &System, &principal, &project).await.unwrap();
        // The files are gone; then the process ends.
        while erase::objects(store, objects, &stack.app.secrets, &project).await.unwrap() {}
        assert_eq!(objects.delete_prefix(&format!("p/{project}/"), 10).await.unwrap(), 0);
        assert_eq!(limit(&api, "storage_bytes").await.1, 5, "the record is there");
        sweep(&stack, clock.by(1_000)).await;
        while store.get::<Project>(&keys::project(&project)).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let pk = keys::project_partition(&project);
        assert_eq!(store.purge(Purge::Records { pk, keep: None }, 100).await.unwrap(), 0);
        assert_eq!(limit(&api, "storage_bytes").await.1, 0, "its bytes are given back");
    })
    .await;
}
