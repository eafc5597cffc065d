//! One sandbox with the tools over it.

use std::sync::Arc;
use std::time::Duration;

use pvm_application::ports::{
    ConnectVm, CreateVm, Machine, NewId, NewVm, StartExecution, Started, WorkflowError,
};
use pvm_application::ports_tools::{ToolContext, ToolProgress, ToolResult, Tools};
use pvm_application::store::{Tx, WriteStore};
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
use serde_json::Value;

const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Copy)]
pub(crate) struct NoWorkflow;

impl StartExecution for NoWorkflow {
    async fn start(&self, _: Machine, _: &str, _: &Value) -> Result<Started, WorkflowError> {
        Ok(Started::Open)
    }
}

/// Real time and ids: the sandbox takes real time.
#[derive(Clone, Copy)]
pub(crate) struct HostClock;

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

pub(crate) struct Lab {
    server: ServerHandle,
    _home: tempfile::TempDir,
    pub(crate) vm: VmClient,
    pub(crate) vm_id: String,
    pub(crate) store: Dynamo,
    pub(crate) project_id: ProjectId,
    pub(crate) registry: Registry<Dynamo, NoWorkflow, VmClient, HostClock>,
}

impl Lab {
    pub(crate) async fn start(template: &str) -> Self {
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

    pub(crate) fn context(&self) -> ToolContext {
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

    pub(crate) async fn within(
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

    pub(crate) async fn ok(&self, name: &str, arguments: Value) -> Value {
        let result = self.within(&self.context(), name, &arguments, Duration::from_secs(280)).await;
        assert!(!result.is_error, "{name}: {}", result.text);
        result.structured.unwrap()
    }

    pub(crate) async fn fails(&self, name: &str, arguments: Value) -> String {
        let result = self.within(&self.context(), name, &arguments, Duration::from_mins(1)).await;
        assert!(result.is_error, "{name}: {}", result.text);
        result.text
    }

    pub(crate) async fn finish(self) {
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
