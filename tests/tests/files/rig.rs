//! One project with a VM, and everything that moves its files, called by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use pvm_application::files::save::{self, Budget, Outcome};
use pvm_application::files::sync::{self, ObjectCreated};
use pvm_application::files::upload::{self, Announced, NewUpload, Way};
use pvm_application::files::{delete, manifest, parts};
use pvm_application::ports::{
    ByteStream, Clock as _, CreateVm, EndVm, NewEntry, NewId as _, NewVm, RequestSave, UploadedPart, VmEntry,
    VmError, VmFiles,
};
use pvm_application::store::{ReadStore as _, Tx, WriteStore as _};
use pvm_application::vm::lease;
use pvm_application::{error::AppResult, keys};
use pvm_aws::clients::{self, ClientSettings};
use pvm_aws::{Dynamo, DynamoSettings, Objects, Tables};
use pvm_contracts::lifecycle::LifecycleInput;
use pvm_domain::file::{ProjectFile, WorkspacePath};
use pvm_domain::ids::{FileId, OperationId, OwnerId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_domain::vm::{VmLease, VmStatus};
use pvm_e2b_wire::secret::Secret;
use pvm_embedded::dynamo::EmbeddedDynamo;
use pvm_embedded::s3::{S3Config, S3Event, S3Host};
use pvm_entry::System;
use pvm_sandbox::{VmClient, VmClientConfig};
use pvm_sandboxd::{Config, Server, ServerHandle, Shutdown, StaticKeys};
use pvm_workflow::lifecycle::setup;
use tokio::sync::mpsc::UnboundedReceiver;

const KEY: &str = "e2b_0123456789012345678901234567890123456789";

/// Nobody saves by itself.
pub(crate) struct ByHand;
impl RequestSave for ByHand {
    async fn request_save(&self, _: &ProjectId) {}
}

pub(crate) struct Rig {
    pub(crate) store: Dynamo,
    pub(crate) objects: Objects,
    pub(crate) vm: VmClient,
    pub(crate) vm_id: String,
    pub(crate) project_id: ProjectId,
    pub(crate) principal: Principal,
    pub(crate) http: reqwest::Client,
    events: UnboundedReceiver<S3Event>,
    s3: Option<S3Host>,
    /// Until it is stopped.
    sandboxd: Option<ServerHandle>,
    _home: tempfile::TempDir,
}

/// A test that fails must not leave its VMs behind.
impl Drop for Rig {
    fn drop(&mut self) {
        let Some(sandboxd) = self.sandboxd.take() else { return };
        // Not on this thread, which may be one of the runtime that the server runs on.
        let ending = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(sandboxd.shutdown(Shutdown::KillAll));
        });
        drop(ending.join());
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings of the sandbox server.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dynamo = EmbeddedDynamo::in_memory().unwrap();
        let (tell, events) = tokio::sync::mpsc::unbounded_channel();
        let s3 = S3Host::start(S3Config {
            addr: ([127, 0, 0, 1], 0).into(),
            folder: home.path().join("s3"),
            region: "us-east-1".to_owned(),
            events: Some(tell),
            events_prefix: "p/".to_owned(),
        })
        .await
        .unwrap();
        let base = clients::load(ClientSettings {
            region: Some("us-east-1".to_owned()),
            credentials: Some(s3.credentials()),
            dynamodb_http: Some(dynamo.http_client()),
            s3_url: Some(s3.url()),
            ..ClientSettings::default()
        })
        .await;
        let tables = Tables { app: "app".to_owned(), events: "events".to_owned() };
        pvm_aws::schema::create_missing(&base.dynamodb(), &tables).await.unwrap();
        let settings = DynamoSettings { poll_interval: None, ..DynamoSettings::default() };
        let store = Dynamo::with_settings(base.dynamodb(), tables, settings);
        let objects = Objects::new(base.s3(), "files");
        objects.create_bucket_if_missing().await.unwrap();
        let mut config = Config::new(home.path().join("sandboxes"));
        config.listen.set_port(0);
        config.authenticate = Arc::new(StaticKeys::new([(KEY, "local")]));
        change(&mut config);
        let sandboxd = Server::start(config).await.unwrap();
        let vm = VmClient::new(VmClientConfig::local(sandboxd.address(), Secret::new(KEY), "files")).unwrap();
        let owner = OwnerId::parse("ann").unwrap();
        let now = System.now();
        let mut project = Project {
            project_id: System.new_id(),
            owner: owner.clone(),
            name: "files".to_owned(),
            description: String::new(),
            auto_setup_vm: false,
            template: None,
            env: BTreeMap::new(),
            vm_idle_secs: None,
            vm_paused_secs: None,
            deleting: false,
            created_at: now,
            updated_at: now,
            version: 0,
        };
        let mut lease = VmLease::none(project.project_id.clone(), now);
        store.commit(Tx::new().create(&mut project).create(&mut lease)).await.unwrap();
        let mut rig = Self {
            store,
            objects,
            vm,
            vm_id: String::new(),
            project_id: project.project_id,
            principal: Principal { owner, scope: Scope::Admin, projects: None },
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            events,
            s3: Some(s3),
            sandboxd: Some(sandboxd),
            _home: home,
        };
        rig.new_vm().await;
        rig
    }

    pub(crate) async fn stop(mut self) {
        if let (Some(sandboxd), Some(s3)) = (self.sandboxd.take(), self.s3.take()) {
            sandboxd.shutdown(Shutdown::KillAll).await;
            s3.shutdown().await;
        }
    }

    /// Loses the VM as it is, without a save, and takes a new one into use. Its files are not restored yet.
    pub(crate) async fn new_vm(&mut self) {
        if !self.vm_id.is_empty() {
            self.vm.kill_vm(&self.vm_id).await.unwrap();
        }
        let new = NewVm {
            project_id: self.project_id.to_string(),
            template: None,
            env: BTreeMap::new(),
            timeout_secs: 3600,
            egress: Vec::new(),
        };
        self.vm_id = self.vm.create_vm(&new).await.unwrap().vm_id;
        let mut lease: VmLease = self.store.get(&keys::vm_lease(&self.project_id)).await.unwrap().unwrap();
        lease.finish(VmStatus::None, None);
        lease.begin(System.new_id::<OperationId>(), VmStatus::Starting, System.now()).unwrap();
        lease.attach(&self.vm_id, "boot", System.now());
        lease.finish(VmStatus::Active, None);
        self.store.commit(Tx::new().update(&mut lease)).await.unwrap();
    }

    /// Puts the VM back into a set-up that has restored its files already.
    pub(crate) async fn set_up_again(&self) -> OperationId {
        let operation: OperationId = System.new_id();
        let begin = |lease: &mut VmLease| {
            lease.begin(operation.clone(), VmStatus::Starting, System.now()).unwrap();
            Ok(true)
        };
        lease::change(&self.store, &System, &self.project_id, begin).await.unwrap();
        operation
    }

    /// The last step of a set-up.
    pub(crate) async fn set_up_ends(&self, operation: &OperationId) {
        let Self { store, objects, vm, project_id, .. } = self;
        let input = LifecycleInput { project_id: project_id.clone(), operation_id: operation.clone() };
        setup::start_services(store, objects, vm, &System, input).await.unwrap();
    }

    pub(crate) async fn save_within(&self, budget: Budget) -> AppResult<Outcome> {
        let Self { store, objects, vm, .. } = self;
        save::reconcile(store, objects, vm, &System, &self.project_id, &self.vm_id, budget).await
    }

    pub(crate) async fn save(&self) -> Outcome {
        self.save_within(Budget::unlimited()).await.unwrap()
    }

    /// Paths that the VM has not as they are stored.
    pub(crate) async fn differing(&self) -> Vec<String> {
        let Self { store, vm, .. } = self;
        manifest::compare(store, vm, &System, &self.project_id, &self.vm_id).await.unwrap().differing
    }

    fn place(path: &str) -> NewUpload {
        NewUpload { path: WorkspacePath::parse("path", path).unwrap(), mode: None }
    }

    pub(crate) async fn upload(&self, path: &str, bytes: impl Into<Bytes>) -> AppResult<ProjectFile> {
        let Self { store, objects, principal, project_id, .. } = self;
        let place = Self::place(path);
        upload::inline(store, objects, &System, principal, project_id, None, place, bytes.into()).await
    }

    pub(crate) async fn announce(&self, path: &str, announced: Announced) -> AppResult<(ProjectFile, Way)> {
        let Self { store, objects, principal, project_id, .. } = self;
        let place = Self::place(path);
        upload::presigned(store, objects, &System, principal, project_id, None, place, announced).await
    }

    /// Sends bytes by a signed request; answers the status.
    pub(crate) async fn send(&self, way: &Way, bytes: impl Into<reqwest::Body>) -> u16 {
        let Way::Whole(request) = way else { panic!("not whole") };
        let mut put = self.http.request(request.method.parse().unwrap(), &request.url);
        for (name, value) in &request.headers {
            put = put.header(name, value);
        }
        put.body(bytes).send().await.unwrap().status().as_u16()
    }

    /// Sends an upload of one part, and completes it.
    pub(crate) async fn send_in_parts(&self, file: &ProjectFile, way: &Way, bytes: &'static str) {
        let Way::Parts(announced) = way else { panic!("not in parts") };
        let request = &announced.requests[0];
        let mut put = self.http.request(request.method.parse().unwrap(), &request.url);
        for (name, value) in &request.headers {
            put = put.header(name, value);
        }
        let answer = put.body(bytes).send().await.unwrap();
        let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
        let sent = [UploadedPart { number: 1, etag }];
        let Self { store, objects, principal, project_id, .. } = self;
        parts::complete(store, objects, principal, project_id, &file.file_id, &sent).await.unwrap();
    }

    pub(crate) async fn delete(&self, file: &FileId) -> AppResult<()> {
        let Self { store, objects, vm, principal, project_id, .. } = self;
        delete::delete(store, objects, vm, &System, principal, project_id, file).await
    }

    /// Messages that have come so far, as a queue has them.
    pub(crate) fn take_bodies(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            all.push(event.body().to_string());
            event.done();
        }
        all
    }

    /// Events that have come so far.
    pub(crate) fn take_events(&mut self) -> Vec<ObjectCreated> {
        let mut all = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            all.extend(pvm_events::notification::objects_created(&event.body().to_string()).unwrap());
            event.done();
        }
        all
    }

    pub(crate) async fn deliver(&self, event: &ObjectCreated) -> AppResult<()> {
        let Self { store, objects, vm, .. } = self;
        sync::object_created(store, objects, vm, &System, event).await
    }

    /// Works off every event there is.
    pub(crate) async fn deliver_all(&mut self) {
        for event in self.take_events() {
            self.deliver(&event).await.unwrap();
        }
    }

    pub(crate) async fn records(&self) -> BTreeMap<String, ProjectFile> {
        let all = save::records(&self.store, &self.project_id).await.unwrap();
        all.into_iter().map(|file| (file.path.as_str().to_owned(), file)).collect()
    }

    pub(crate) async fn record(&self, path: &str) -> ProjectFile {
        self.records().await.remove(path).unwrap_or_else(|| panic!("{path} is not stored"))
    }

    /// Runs a shell line in the workspace as the user; it must succeed.
    pub(crate) async fn sh(&self, line: &str) -> String {
        self.sh_as("user", line).await
    }

    pub(crate) async fn sh_as(&self, user: &str, line: &str) -> String {
        use pvm_application::ports::{RunCommands as _, RunSpec};
        let spec = RunSpec {
            run_id: System.new_id::<pvm_domain::ids::CommandId>().to_string(),
            command: line.to_owned(),
            working_dir: "/workspace".to_owned(),
            env: BTreeMap::new(),
            stdin: None,
            user: user.to_owned(),
            timeout_secs: Some(600),
        };
        let wait = std::time::Duration::from_mins(5);
        let done = self.vm.start_run(&self.vm_id, &spec, wait).await.unwrap();
        let err = String::from_utf8_lossy(&done.stderr.data);
        assert_eq!(done.exit_code, Some(0), "{line}: {done:?} {err}");
        String::from_utf8_lossy(&done.stdout.data).into_owned()
    }

    pub(crate) async fn write(&self, entries: Vec<NewEntry>) -> Vec<Option<String>> {
        self.vm.write_many(&self.vm_id, entries).await.unwrap()
    }
}

/// A VM that does not answer for one path, or from one scan on.
pub(crate) struct CutAt {
    vm: VmClient,
    path: Option<String>,
    /// Scans that are answered.
    scans: AtomicUsize,
}

impl CutAt {
    pub(crate) fn path(vm: VmClient, path: &str) -> Self {
        Self { vm, path: Some(format!("/workspace/{path}")), scans: AtomicUsize::new(usize::MAX) }
    }

    pub(crate) fn scan(vm: VmClient, answered: usize) -> Self {
        Self { vm, path: None, scans: AtomicUsize::new(answered) }
    }

    fn reach(&self, path: &str) -> Result<(), VmError> {
        if self.path.as_deref() == Some(path) {
            return Err(VmError::Unavailable(anyhow::anyhow!("cut off")));
        }
        Ok(())
    }
}

impl VmFiles for CutAt {
    async fn read_file(&self, vm_id: &str, path: &str, user: &str, most: u64) -> Result<Bytes, VmError> {
        self.vm.read_file(vm_id, path, user, most).await
    }
    async fn read_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
    ) -> Result<(u64, ByteStream), VmError> {
        self.vm.read_file_stream(vm_id, path, user).await
    }
    async fn write_file(&self, vm_id: &str, path: &str, user: &str, bytes: Bytes) -> Result<(), VmError> {
        self.vm.write_file(vm_id, path, user, bytes).await
    }
    async fn write_file_stream(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        size: u64,
        bytes: ByteStream,
    ) -> Result<(), VmError> {
        self.vm.write_file_stream(vm_id, path, user, size, bytes).await
    }
    async fn stat(&self, vm_id: &str, path: &str, user: &str) -> Result<Option<VmEntry>, VmError> {
        self.reach(path)?;
        self.vm.stat(vm_id, path, user).await
    }
    async fn list_dir(
        &self,
        vm_id: &str,
        path: &str,
        user: &str,
        depth: u32,
    ) -> Result<Vec<VmEntry>, VmError> {
        self.vm.list_dir(vm_id, path, user, depth).await
    }
    async fn remove(&self, vm_id: &str, path: &str, user: &str) -> Result<(), VmError> {
        self.vm.remove(vm_id, path, user).await
    }
    async fn write_many(&self, vm_id: &str, entries: Vec<NewEntry>) -> Result<Vec<Option<String>>, VmError> {
        self.vm.write_many(vm_id, entries).await
    }
    async fn scan_workspace(&self, vm_id: &str) -> Result<Vec<VmEntry>, VmError> {
        let left = self.scans.load(Ordering::Relaxed);
        if left == 0 {
            return Err(VmError::Unavailable(anyhow::anyhow!("cut off")));
        }
        self.scans.store(left - 1, Ordering::Relaxed);
        self.vm.scan_workspace(vm_id).await
    }
}
