//! The tools in a real sandbox: sandbox server, VM client and records in this process. Needs root; uses the template
//! `host`, which takes a second to make, and `base` for what comes from package registries.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use pvm_application::ports::{
    ConnectVm, CreateVm, EndVm, Machine, NewId, NewVm, StartExecution, VmError, WorkflowError,
};
use pvm_application::ports_tools::{ToolContext, ToolProgress, ToolResult, Tools};
use pvm_application::store::{Tx, WriteStore};
use pvm_application::vm::recipe;
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, Tables};
use pvm_domain::Timestamp;
use pvm_domain::ids::{CommandId, OperationId, OwnerId, PrefixedId, ProjectId};
use pvm_domain::project::Project;
use pvm_domain::vm::{VmLease, VmStatus};
use pvm_e2b_wire::secret::Secret;
use pvm_embedded::dynamo::EmbeddedDynamo;
use pvm_sandbox::{VmClient, VmClientConfig};
use pvm_sandboxd::{Config, Server, ServerHandle, Shutdown, StaticKeys};
use pvm_tools::Registry;
use serde_json::{Value, json};

const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Copy)]
struct NoWorkflow;

impl StartExecution for NoWorkflow {
    async fn start(&self, _: Machine, _: &str, _: &Value) -> Result<(), WorkflowError> {
        Ok(())
    }
}

/// Real time and ids: the sandbox takes real time.
#[derive(Clone, Copy)]
struct HostClock;

impl pvm_application::ports::Clock for HostClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl NewId for HostClock {
    fn new_id<I: PrefixedId>(&self) -> I {
        use std::hash::{BuildHasher, Hasher};
        let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
        I::from_parts(
            Timestamp::now().as_millisecond().unsigned_abs(),
            (u128::from(random()) << 64) | u128::from(random()),
        )
    }
}

struct Lab {
    server: ServerHandle,
    _home: tempfile::TempDir,
    vm: VmClient,
    vm_id: String,
    store: Dynamo,
    project_id: ProjectId,
    registry: Registry<Dynamo, NoWorkflow, VmClient, HostClock>,
}

impl Lab {
    async fn start(template: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::new(home.path().join("sandboxes"));
        config.listen = ([127, 0, 0, 1], 0).into();
        config.authenticate = Arc::new(StaticKeys::new([(KEY, "local")]));
        let server = Server::start(config).await.unwrap();
        let vm =
            VmClient::new(VmClientConfig::local(server.address(), Secret::new(KEY), "tools-test")).unwrap();
        let store = store().await;
        let project_id: ProjectId = HostClock.new_id();
        let new = NewVm {
            egress: Vec::new(),
            project_id: project_id.to_string(),
            template: Some(template.to_owned()),
            env: std::collections::BTreeMap::new(),
            timeout_secs: 600,
        };
        let vm_id = vm.create_vm(&new).await.unwrap().vm_id;
        let boot_id = vm.boot_id(&vm_id).await.unwrap();
        let now = Timestamp::now();
        let mut project = project(&project_id, now);
        let mut lease = VmLease::none(project_id.clone(), now);
        lease.begin(HostClock.new_id::<OperationId>(), VmStatus::Starting, now).unwrap();
        lease.attach(&vm_id, &boot_id, now);
        lease.finish(VmStatus::Active, None);
        store.commit(Tx::new().create(&mut project).create(&mut lease)).await.unwrap();
        let registry = Registry::new(store.clone(), NoWorkflow, vm.clone(), HostClock);
        Self { server, _home: home, vm, vm_id, store, project_id, registry }
    }

    fn context(&self) -> ToolContext {
        ToolContext {
            project_id: self.project_id.clone(),
            vm_id: self.vm_id.clone(),
            epoch: 1,
            call_id: HostClock.new_id::<CommandId>().to_string(),
            conversation_id: None,
            agent_id: Some("dev_agent".to_owned()),
            working_dir: "/workspace".to_owned(),
            env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        }
    }

    async fn within(
        &self,
        context: &ToolContext,
        name: &str,
        arguments: &Value,
        wait: Duration,
    ) -> ToolResult {
        match self.registry.start(context, name, arguments, wait).await.unwrap() {
            ToolProgress::Done(result) => result,
            ToolProgress::Running { output, .. } => panic!("{name} still runs: {output}"),
        }
    }

    async fn ok(&self, name: &str, arguments: Value) -> Value {
        let result = self.within(&self.context(), name, &arguments, Duration::from_secs(280)).await;
        assert!(!result.is_error, "{name}: {}", result.text);
        result.structured.unwrap()
    }

    async fn fails(&self, name: &str, arguments: Value) -> String {
        let result = self.within(&self.context(), name, &arguments, Duration::from_secs(60)).await;
        assert!(result.is_error, "{name}: {}", result.text);
        result.text
    }

    async fn finish(self) {
        self.server.shutdown(Shutdown::KillAll).await;
    }
}

fn project(project_id: &ProjectId, now: Timestamp) -> Project {
    Project {
        project_id: project_id.clone(),
        owner: OwnerId::parse("local").unwrap(),
        name: "tools".to_owned(),
        description: String::new(),
        auto_setup_vm: false,
        template: None,
        env: std::collections::BTreeMap::new(),
        vm_idle_secs: None,
        vm_paused_secs: None,
        deleting: false,
        created_at: now,
        updated_at: now,
        version: 0,
    }
}

async fn store() -> Dynamo {
    let dynamo = EmbeddedDynamo::in_memory().unwrap();
    let base = clients::load(ClientSettings {
        region: Some("us-east-1".to_owned()),
        credentials: Some(StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() }),
        dynamodb_http: Some(dynamo.http_client()),
        ..ClientSettings::default()
    })
    .await;
    let tables = Tables { app: "app".to_owned(), events: "events".to_owned() };
    pvm_aws::schema::create_missing(&base.dynamodb(), &tables).await.unwrap();
    Dynamo::new(base.dynamodb(), tables)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_as_the_user_asked_for_with_the_projects_environment() {
    let lab = Lab::start("host").await;
    let out = lab.ok("execute_command", json!({"command": "id -un; pwd; echo $GREETING $TERM"})).await;
    assert_eq!(out["stdout"], "user\n/workspace\nhello dumb\n", "{out}");
    let out =
        lab.ok("execute_command", json!({"command": "id -un", "user": "root", "working_dir": "/tmp"})).await;
    assert_eq!(out["stdout"], "root\n");
    let result = lab
        .within(
            &lab.context(),
            "execute_command",
            &json!({"command": "seq 1 300000"}),
            Duration::from_secs(30),
        )
        .await;
    let whole = result.output_path.unwrap();
    let out = lab.ok("read_file", json!({"path": whole, "user": "root", "start_line": 299_999})).await;
    assert!(out["content"].as_str().unwrap().starts_with("299999\n300000"), "the whole output can be read");
    let text = lab.fails("execute_command", json!({"command": "true", "working_dir": "/nowhere"})).await;
    assert!(text.contains("nowhere") || text.contains("directory"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_command_is_watched_killed_and_lost_with_its_vm() {
    let lab = Lab::start("host").await;
    let context = lab.context();
    let args = json!({"command": "echo begun; sleep 100", "timeout_secs": 200});
    let first =
        lab.registry.start(&context, "execute_command", &args, Duration::from_millis(300)).await.unwrap();
    assert!(matches!(first, ToolProgress::Running { output, .. } if output == "begun\n"));
    let seen = lab.ok("get_command", json!({"command_id": context.call_id})).await;
    assert_eq!(seen["status"], "running");
    lab.registry.kill(&context, "execute_command", &args).await.unwrap();
    let end = lab.registry.poll(&context, "execute_command", &args, Duration::from_secs(5)).await.unwrap();
    assert!(matches!(end, ToolProgress::Done(result) if result.is_error && result.text.contains("Killed")));
    lab.vm.kill_vm(&lab.vm_id).await.unwrap();
    let gone = lab.registry.start(&lab.context(), "execute_command", &args, Duration::from_secs(5)).await;
    assert!(matches!(gone, Err(VmError::Gone)), "{gone:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_owners_and_permissions_say_no() {
    let lab = Lab::start("host").await;
    let out = lab
        .ok(
            "write_file",
            json!({"path": "conf/app.ini", "content": "a=1\n", "mode": "0640", "owner": "root:user"}),
        )
        .await;
    assert_eq!((out["owner"].as_str(), out["mode"].as_str()), (Some("root:user"), Some("0640")));
    let out = lab.ok("read_file", json!({"path": "/workspace/conf/app.ini"})).await;
    assert_eq!((out["content"].as_str(), out["owner"].as_str()), (Some("a=1\n"), Some("root:user")));
    let out = lab
        .ok(
            "edit_file",
            json!({"path": "conf/app.ini", "old_string": "1", "new_string": "2", "user": "root"}),
        )
        .await;
    assert_eq!((out["owner"].as_str(), out["mode"].as_str()), (Some("root:user"), Some("0640")));
    let theirs = json!({"path": "/etc/app.ini", "content": "x", "owner": "root:root"});
    let text = lab.fails("write_file", theirs).await;
    assert!(text.contains("ermission denied"), "giving a file away opens no directory: {text}");
    let text = lab.fails("write_file", json!({"path": "a", "content": "x", "owner": "nobody-here"})).await;
    assert!(text.contains("its owner cannot be set to nobody-here"), "{text}");
    lab.ok("execute_command", json!({"command": "rm a"})).await;
    let text = lab.fails("write_file", json!({"path": "/root/x", "content": "x"})).await;
    assert!(text.contains("was not written"), "{text}");
    let text = lab.fails("write_file", json!({"path": "/etc/hostname", "content": "x"})).await;
    assert!(text.contains("ermission denied"), "{text}");
    let secret = "umask 077; echo secret > /etc/secret.ini";
    lab.ok("execute_command", json!({"command": secret, "user": "root"})).await;
    let text = lab.fails("read_file", json!({"path": "/etc/secret.ini"})).await;
    assert!(text.to_lowercase().contains("permission") || text.contains("refused"), "{text}");
    assert!(text.contains("root:root 0600") && text.contains("user=root"), "{text}");
    let text = lab.fails("list_directory", json!({"path": "/root"})).await;
    assert!(text.contains("Permission denied"), "{text}");
    lab.ok("execute_command", json!({"command": "ln -s /etc/secret.ini link"})).await;
    let text = lab.fails("read_file", json!({"path": "link"})).await;
    assert!(text.contains("Permission denied"), "a link is no way around: {text}");
    lab.ok("execute_command", json!({"command": "rm link"})).await;
    let big = "x".repeat(3 * 1024 * 1024);
    let out = lab.ok("write_file", json!({"path": "big.txt", "content": big})).await;
    assert_eq!(out["size"], 3 * 1024 * 1024);
    let out = lab.ok("list_directory", json!({"depth": 2})).await;
    let paths: Vec<&str> =
        out["entries"].as_array().unwrap().iter().filter_map(|e| e["path"].as_str()).collect();
    assert_eq!(paths, ["big.txt", "conf", "conf/app.ini"]);
    let out = lab.ok("search_files", json!({"pattern": r"a=\d", "user": "root"})).await;
    assert_eq!(out["count"], 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_started_once_seen_and_stopped() {
    let lab = Lab::start("host").await;
    let args = json!({"service_name": "web", "command": "echo up >&2; exec python3 -m http.server 5055", "port": 5055});
    let context = lab.context();
    let first = lab.within(&context, "start_service", &args, Duration::from_secs(20)).await;
    assert!(!first.is_error, "{}", first.text);
    let out = first.structured.unwrap();
    assert_eq!(out["status"], "running");
    assert!(out["url"].as_str().unwrap().contains("5055"));
    let again = lab.within(&context, "start_service", &args, Duration::from_secs(20)).await;
    assert_eq!(again.structured.unwrap()["service_id"], out["service_id"], "a repeated call starts nothing");
    let other = lab.ok("start_service", args.clone()).await;
    assert_eq!(other["service_id"], out["service_id"], "the same service again is the service");
    let text = lab.fails("start_service", json!({"name": "web", "command": "sleep 1"})).await;
    assert!(text.contains("stop it first"), "{text}");
    lab.ok("execute_command", json!({"command": "curl -fsS http://127.0.0.1:5055/ > /dev/null"})).await;
    let logs = lab.ok("service_logs", json!({"name": "web"})).await;
    assert!(logs["log"].as_str().unwrap().contains("GET / HTTP"), "{logs}");
    let all = lab.ok("list_services", json!({})).await;
    assert_eq!(all["services"][0]["name"], "web");
    lab.ok("stop_service", json!({"name": out["service_id"]})).await;
    assert_eq!(lab.ok("list_services", json!({})).await["services"], json!([]));
    assert!(lab.fails("stop_service", json!({"name": "web"})).await.contains("no service"));
    let text = lab
        .fails("start_service", json!({"name": "bad", "command": "echo reason; exit 3", "restart": "no"}))
        .await;
    assert!(text.contains("reason"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_signs_with_the_agents_name_and_the_machine_is_described() {
    let lab = Lab::start("host").await;
    lab.ok("git_operations", json!({"operation": "init", "path": "repo"})).await;
    lab.ok("write_file", json!({"path": "repo/a", "content": "x"})).await;
    lab.ok("git_operations", json!({"operation": "add", "path": "repo"})).await;
    let out = lab.ok("git_operations", json!({"operation": "commit", "path": "repo", "message": "m"})).await;
    assert_eq!(out["commits"][0]["author"], "dev_agent");
    let info = lab.ok("get_system_info", json!({})).await;
    assert_eq!(info["user"], "user");
    assert!(info["uptime_secs"].as_u64().unwrap() < 3600 && info["cpus"].as_u64().unwrap() >= 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn packages_are_installed_by_every_manager_and_noted() {
    let lab = Lab::start("base").await;
    // The template `host` has sudo only where the host has it.
    let out = lab.ok("execute_command", json!({"command": "sudo -n id -un"})).await;
    assert_eq!(out["stdout"], "root\n", "{out}");
    let version = |out: &Value, name: &str| {
        let all = out["installed"].as_array().unwrap();
        let found = all.iter().find(|package| package["name"] == name);
        found
            .and_then(|package| package["version"].as_str())
            .unwrap_or_else(|| panic!("{name} in {out}"))
            .to_owned()
    };
    let out = lab.ok("install_package", json!({"package": "six==1.16.0 idna", "manager": "pip"})).await;
    assert_eq!(version(&out, "six"), "1.16.0");
    assert_eq!(out["location"], "system");
    let out =
        lab.ok("install_package", json!({"package": "six", "manager": "pip", "virtual_env": "env"})).await;
    assert_eq!(out["location"], "/workspace/env");
    let out = lab
        .ok("install_package", json!({"package": "left-pad@1.3.0", "manager": "npm", "working_dir": "app"}))
        .await;
    assert_eq!(version(&out, "left-pad"), "1.3.0");
    let out = lab
        .ok("install_package", json!({"package": "is-odd", "manager": "yarn", "working_dir": "yapp"}))
        .await;
    assert!(!version(&out, "is-odd").is_empty());
    let out = lab.ok("install_package", json!({"package": "tree", "manager": "apt"})).await;
    assert!(!version(&out, "tree").is_empty());
    lab.ok("execute_command", json!({"command": "tree --version"})).await;
    let text = lab
        .fails(
            "install_package",
            json!({"package": "no-such-package-at-all", "manager": "npm", "working_dir": "app"}),
        )
        .await;
    assert!(text.contains("could not install"), "{text}");
    let text = lab.fails("install_package", json!({"package": "x", "manager": "cargo"})).await;
    assert!(text.contains("cargo is not installed"), "{text}");
    let noted = recipe::load(&lab.store, &lab.project_id).await.unwrap();
    assert_eq!(noted.installs.len(), 5);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn environments_are_made_and_left_alone_when_they_are_there() {
    let lab = Lab::start("base").await;
    let made = lab
        .ok("create_development_environment", json!({"kind": "python", "path": "py", "packages": "six"}))
        .await;
    assert!(made["created"].as_array().unwrap().contains(&json!(".venv")), "{made}");
    let again = lab
        .ok("create_development_environment", json!({"kind": "python", "path": "py", "packages": "six"}))
        .await;
    assert_eq!(again["created"], json!([]), "{again}");
    lab.ok("execute_command", json!({"command": "py/.venv/bin/python -c 'import six'"})).await;
    let made = lab.ok("create_development_environment", json!({"kind": "fullstack", "path": "full"})).await;
    assert!(made["versions"].as_array().unwrap().iter().any(|v| v["name"] == "node"), "{made}");
    lab.ok("execute_command", json!({"command": "cd full/frontend && npm run build", "timeout_secs": 120}))
        .await;
    let backend = json!({"name": "backend", "command": "backend/.venv/bin/python backend/app.py",
                         "working_dir": "full", "port": 5000});
    assert_eq!(lab.ok("start_service", backend).await["status"], "running");
    lab.ok("create_development_environment", json!({"kind": "data-science", "path": "ds"})).await;
    lab.ok("execute_command", json!({"command": "ds/.venv/bin/python -c 'import pandas, sklearn'"})).await;
    let made = lab.ok("create_development_environment", json!({"kind": "rust", "path": "rs"})).await;
    assert!(made["versions"].as_array().unwrap().iter().any(|v| v["name"] == "cargo"), "{made}");
    lab.ok("execute_command", json!({"command": "cd rs && cargo run", "timeout_secs": 120})).await;
    lab.finish().await;
}
