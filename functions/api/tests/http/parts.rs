//! What the tests stand on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use pvm_api::router::Router;
use pvm_application::error::AppResult;
use pvm_application::keys_admin;
use pvm_application::ports::*;
use pvm_application::store::{Tx, WriteStore};
use pvm_authorizer::{Authorizer, FetchJson};
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, DynamoSettings, FileSecrets, Tables, schema};
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::vm::{VmLease, VmStatus};
use pvm_embedded::dynamo::EmbeddedDynamo;
use pvm_entry::settings::Secret;
use pvm_entry::{App, Reply, ReplyBody, Settings, Signer, System};
use pvm_models::{Library, ModelSettings, Models, Replay};
use pvm_tools::Registry;
use serde_json::Value;

/// Executions that were started.
#[derive(Clone, Default)]
pub(crate) struct Engine {
    pub(crate) started: Arc<Mutex<Vec<(String, Value)>>>,
    pub(crate) down: Arc<Mutex<bool>>,
}

impl StartExecution for Engine {
    async fn start(&self, _: Machine, name: &str, input: &Value) -> Result<Started, WorkflowError> {
        if *self.down.lock().unwrap() {
            return Err(WorkflowError::Unavailable(anyhow::anyhow!("down")));
        }
        self.started.lock().unwrap().push((name.to_owned(), input.clone()));
        Ok(Started::Open)
    }
}
impl StopExecution for Engine {
    async fn stop(&self, _: Machine, _: &str, _: &str) -> Result<(), WorkflowError> {
        Ok(())
    }
}
impl SendTask for Engine {
    async fn send_success(&self, _: &str, _: &Value) -> Result<bool, WorkflowError> {
        Ok(true)
    }
}

/// Objects in memory.
#[derive(Clone, Default)]
pub(crate) struct Shelf(pub(crate) Arc<Mutex<BTreeMap<String, Bytes>>>);

impl PutObject for Shelf {
    async fn put(&self, key: &str, bytes: Bytes, _: Option<&str>) -> Result<(), ObjectError> {
        self.0.lock().unwrap().insert(key.to_owned(), bytes);
        Ok(())
    }
    async fn put_new(&self, key: &str, bytes: Bytes, sha256: &str) -> Result<(), ObjectError> {
        self.put(key, bytes, Some(sha256)).await
    }
    async fn put_new_stream(&self, key: &str, bytes: ByteStream) -> Result<ObjectInfo, ObjectError> {
        self.put_stream(key, bytes).await
    }
    async fn put_stream(&self, key: &str, mut bytes: ByteStream) -> Result<ObjectInfo, ObjectError> {
        let mut whole = Vec::new();
        while let Some(piece) = bytes.next().await {
            whole.extend_from_slice(&piece.unwrap());
        }
        let size = whole.len() as u64;
        self.0.lock().unwrap().insert(key.to_owned(), whole.into());
        Ok(ObjectInfo { size, sha256: None })
    }
}
impl UploadParts for Shelf {
    async fn begin_parts(&self, _: &str) -> Result<String, ObjectError> {
        Ok("parts".to_owned())
    }
    async fn complete_parts(&self, _: &str, _: &str, _: &[UploadedPart]) -> Result<(), ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn abort_parts(&self, _: &str, _: &str) -> Result<(), ObjectError> {
        Ok(())
    }
}
impl GetObject for Shelf {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.0.lock().unwrap().get(key).cloned().ok_or(ObjectError::NotFound)
    }
    async fn get_stream(&self, key: &str) -> Result<(u64, ByteStream), ObjectError> {
        let bytes = self.get(key).await?;
        Ok((bytes.len() as u64, Box::pin(futures::stream::once(async { Ok(bytes) }))))
    }
    async fn head(&self, key: &str) -> Result<ObjectInfo, ObjectError> {
        let bytes = self.get(key).await?;
        Ok(ObjectInfo { size: bytes.len() as u64, sha256: None })
    }
}
impl DeleteObject for Shelf {
    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
    async fn delete_prefix(&self, prefix: &str, _: u32) -> Result<u32, ObjectError> {
        let mut shelf = self.0.lock().unwrap();
        let before = shelf.len();
        shelf.retain(|key, _| !key.starts_with(prefix));
        Ok((before - shelf.len()) as u32)
    }
}
impl PresignObject for Shelf {
    async fn presign_get(&self, key: &str, _: &str, _: Duration) -> Result<Presigned, ObjectError> {
        Ok(Presigned { method: "GET".to_owned(), url: format!("http://store/{key}"), headers: vec![] })
    }
    async fn presign_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        size: u64,
        _: Duration,
    ) -> Result<Presigned, ObjectError> {
        let headers = vec![("content-length".to_owned(), size.to_string())];
        let url = format!("http://store/{key}?partNumber={number}&uploadId={id}");
        Ok(Presigned { method: "PUT".to_owned(), url, headers })
    }
    async fn presign_put(
        &self,
        key: &str,
        size: u64,
        _: Option<&str>,
        _: Duration,
    ) -> Result<Presigned, ObjectError> {
        let headers = vec![("content-length".to_owned(), size.to_string())];
        Ok(Presigned { method: "PUT".to_owned(), url: format!("http://store/{key}"), headers })
    }
}

/// A VM whose commands do as they are told: `say TEXT` ends at once; `wait` runs until [`Machine::end`] or a kill.
#[derive(Clone, Default)]
pub(crate) struct Computer {
    runs: Arc<Mutex<BTreeMap<String, RunReport>>>,
}

fn piece(text: &str, offset: u64) -> Chunk {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let data = Bytes::copy_from_slice(&text.as_bytes()[from..]);
    Chunk { offset: from as u64, next: text.len() as u64, total: text.len() as u64, dropped: 0, data }
}

impl Computer {
    /// Adds to the output of all running commands.
    pub(crate) fn write(&self, text: &str) {
        for run in self.runs.lock().unwrap().values_mut().filter(|run| run.state == RunState::Running) {
            let before = String::from_utf8(run.stdout.data.to_vec()).unwrap();
            run.stdout = piece(&format!("{before}{text}"), 0);
        }
    }

    /// Whether a command was started.
    pub(crate) fn has_started(&self, command: &str) -> bool {
        self.runs.lock().unwrap().contains_key(command)
    }

    /// Forgets all runs, as a journal does after a week.
    pub(crate) fn forget(&self) {
        self.runs.lock().unwrap().clear();
    }

    /// Ends all running commands.
    pub(crate) fn end(&self, code: i32) {
        for run in self.runs.lock().unwrap().values_mut().filter(|run| run.state == RunState::Running) {
            (run.state, run.exit_code) = (RunState::Exited, Some(code));
        }
    }
}

impl RunCommands for Computer {
    async fn start_run(&self, _: &str, spec: &RunSpec, _: Duration) -> Result<RunReport, VmError> {
        let mut runs = self.runs.lock().unwrap();
        let run = runs.entry(spec.run_id.clone()).or_insert_with(|| {
            let said = spec.command.strip_prefix("say ");
            let running = spec.command.starts_with("wait");
            RunReport {
                state: if running { RunState::Running } else { RunState::Exited },
                exit_code: (!running).then_some(0),
                signal: None,
                duration_ms: 3,
                stdout: piece(said.unwrap_or_default(), 0),
                stderr: piece("", 0),
            }
        });
        Ok(run.clone())
    }
    async fn read_run(&self, _: &str, run_id: &str, from: ReadFrom) -> Result<Option<RunReport>, VmError> {
        let found = self.runs.lock().unwrap().get(run_id).cloned();
        let ahead = found
            .as_ref()
            .is_some_and(|run| run.stdout.total > from.stdout || run.state != RunState::Running);
        if !ahead {
            tokio::time::sleep(from.wait.min(Duration::from_millis(20))).await;
        }
        Ok(self.runs.lock().unwrap().get(run_id).map(|run| {
            let text = String::from_utf8(run.stdout.data.to_vec()).unwrap();
            RunReport { stdout: piece(&text, from.stdout), ..run.clone() }
        }))
    }
    async fn kill_run(&self, _: &str, run_id: &str) -> Result<(), VmError> {
        if let Some(run) = self.runs.lock().unwrap().get_mut(run_id)
            && run.state == RunState::Running
        {
            (run.state, run.signal) = (RunState::Killed, Some(9));
        }
        Ok(())
    }
}

fn away<T>() -> Result<T, VmError> {
    Err(VmError::Unavailable(anyhow::anyhow!("scripted")))
}

impl CreateVm for Computer {
    async fn create_vm(&self, _: &NewVm) -> Result<VmInfo, VmError> {
        away()
    }
}
impl FindVm for Computer {
    async fn vm(&self, _: &str) -> Result<Option<VmInfo>, VmError> {
        away()
    }
    async fn vms(&self, _: Option<&str>) -> Result<Vec<VmInfo>, VmError> {
        away()
    }
}
impl ConnectVm for Computer {
    async fn connect_vm(&self, _: &str, _: u64) -> Result<VmInfo, VmError> {
        away()
    }
    async fn boot_id(&self, _: &str) -> Result<String, VmError> {
        away()
    }
    fn port_url(&self, vm_id: &str, port: u16) -> String {
        format!("http://{port}-{vm_id}.localhost")
    }
}
impl EndVm for Computer {
    async fn pause_vm(&self, _: &str) -> Result<(), VmError> {
        Ok(())
    }
    async fn kill_vm(&self, _: &str) -> Result<(), VmError> {
        Ok(())
    }
}
impl SetEgress for Computer {
    async fn set_egress(&self, _: &str, _: &[HeaderRule]) -> Result<(), VmError> {
        Ok(())
    }
}
impl VmFiles for Computer {
    async fn read_file(&self, _: &str, path: &str, _: &str, _: u64) -> Result<Bytes, VmError> {
        Err(VmError::NotFound(path.to_owned()))
    }
    async fn read_file_stream(&self, _: &str, path: &str, _: &str) -> Result<(u64, ByteStream), VmError> {
        Err(VmError::NotFound(path.to_owned()))
    }
    async fn write_file(&self, _: &str, _: &str, _: &str, _: Bytes) -> Result<(), VmError> {
        Ok(())
    }
    async fn write_file_stream(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: u64,
        _: ByteStream,
    ) -> Result<(), VmError> {
        Ok(())
    }
    async fn stat(&self, _: &str, _: &str, _: &str) -> Result<Option<VmEntry>, VmError> {
        Ok(None)
    }
    async fn list_dir(&self, _: &str, _: &str, _: &str, _: u32) -> Result<Vec<VmEntry>, VmError> {
        Ok(vec![])
    }
    async fn remove(&self, _: &str, _: &str, _: &str) -> Result<(), VmError> {
        Ok(())
    }
    async fn scan_workspace(&self, _: &str) -> Result<Vec<VmEntry>, VmError> {
        Ok(vec![])
    }
}

/// Nobody saves.
#[derive(Clone, Default)]
pub(crate) struct NoSaver;
impl RequestSave for NoSaver {
    async fn request_save(&self, _: &ProjectId) {}
}

/// No issuer.
pub(crate) struct NoFetch;
impl FetchJson for NoFetch {
    async fn fetch(&self, _: &str) -> anyhow::Result<Value> {
        anyhow::bail!("no issuer")
    }
}

type Tools = Registry<Dynamo, Engine, Computer, System>;
type TestApp = App<Dynamo, Shelf, Engine, Computer, Models, Tools, NoSaver, System>;

/// The system, with two owners and a key of each.
pub(crate) struct House {
    pub(crate) router: Arc<Router<TestApp, NoFetch>>,
    pub(crate) app: Arc<TestApp>,
    pub(crate) ann: String,
    pub(crate) bob: String,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or_default())
    }

    pub(crate) fn field(&self) -> &str {
        assert_eq!(self.status, 422, "{:?}", self.body);
        self.body["field"].as_str().unwrap_or_default()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.body)).to_owned()
    }
}

pub(crate) async fn house() -> House {
    let engine = EmbeddedDynamo::in_memory().unwrap();
    let settings = ClientSettings {
        region: Some("us-east-1".to_owned()),
        credentials: Some(StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() }),
        dynamodb_url: Some("http://127.0.0.1:1".to_owned()),
        dynamodb_http: Some(engine.http_client()),
        ..ClientSettings::default()
    };
    let client = clients::load(settings).await.dynamodb();
    let tables = Tables { app: "app".to_owned(), events: "events".to_owned() };
    schema::create_missing(&client, &tables).await.unwrap();
    let one_process = DynamoSettings { poll_interval: None, ..DynamoSettings::default() };
    let store = Dynamo::with_settings(client, tables, one_process);
    let settings = Settings::from_lookup(|name| match name {
        "PVM_CORS_ORIGINS" => Some("https://page.example".to_owned()),
        _ => None,
    });
    let signer = Signer::new(&Secret::new("0123456789abcdef0123456789abcdef")).unwrap();
    let (workflow, vm) = (Engine::default(), Computer::default());
    let replay = Replay { library: Library::default(), pace: Duration::ZERO };
    let app = Arc::new(App {
        settings: settings.unwrap(),
        signer: signer.clone(),
        store: store.clone(),
        objects: Shelf::default(),
        workflow: workflow.clone(),
        vm: vm.clone(),
        // Nothing is written: no test of this suite sets a secret.
        secrets: FileSecrets::new("/nonexistent"),
        models: Models::new(ModelSettings { default_model: "replay/demo".to_owned(), replay }),
        tools: Registry::new(store.clone(), workflow, vm, System),
        saver: NoSaver,
        ambient: System,
    });
    let authorizer = Authorizer::new(store.clone(), System, signer, None);
    let router = Arc::new(Router::new(app.clone(), authorizer));
    let key = async |owner: &str| {
        let secret = keys_admin::new_secret().unwrap();
        let owner = OwnerId::parse(owner).unwrap();
        keys_admin::ensure(&store, &System, &owner, "first", &secret).await.unwrap();
        secret
    };
    let (ann, bob) = (key("ann").await, key("bob").await);
    House { router, app, ann, bob }
}

/// A request in the making.
pub(crate) struct Asking<'a> {
    house: &'a House,
    request: http::request::Builder,
    body: Bytes,
}

impl Asking<'_> {
    pub(crate) fn token(mut self, token: &str) -> Self {
        self.request = self.request.header("authorization", format!("Bearer {token}"));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.bytes("application/json", body.to_string())
    }

    pub(crate) fn bytes(mut self, media_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", media_type)
    }

    /// Sends it, without reading the answer's body.
    pub(crate) async fn open(self) -> Reply {
        self.house.router.serve(self.request.body(Full::new(self.body)).unwrap()).await
    }

    pub(crate) async fn send(self) -> Answer {
        let (parts, body) = self.open().await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, bytes, body }
    }
}

impl House {
    /// A request without a token.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Asking<'_> {
        let request = http::Request::builder().method(method).uri(path);
        Asking { house: self, request, body: Bytes::new() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).token(&self.ann).send().await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path).token(&self.ann).json(body).send().await
    }

    /// A new project of Ann's.
    pub(crate) async fn project(&self) -> String {
        let made = self.post("/api/projects", &serde_json::json!({"name": "p"})).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        made.text("project_id")
    }

    /// Gives a project a VM that is ready.
    pub(crate) async fn ready(&self, project: &str) -> AppResult<()> {
        let mut lease = VmLease::none(project.parse().unwrap(), System.now());
        lease.attach("vm1", "boot1", System.now());
        lease.state = VmStatus::Active;
        self.app.store.commit(Tx::new().update(&mut lease)).await?;
        Ok(())
    }
}

/// The blocks of an event stream as they come.
pub(crate) struct Blocks {
    body: ReplyBody,
    rest: String,
}

impl Blocks {
    pub(crate) fn of(reply: Reply) -> Self {
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.headers()["content-type"], "text/event-stream");
        Self { body: reply.into_body(), rest: String::new() }
    }

    /// The next block; `None` at the end. Fails when nothing comes for ten seconds.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.rest.split_once("\n\n") {
                let block = block.to_owned();
                self.rest = rest.into();
                return Some(block);
            }
            let frame = within(self.body.frame()).await?;
            self.rest.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
        }
    }
}

/// Waits for what must happen soon.
pub(crate) async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("nothing happened for ten seconds")
}
