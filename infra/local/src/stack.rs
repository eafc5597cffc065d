//! The whole system in one process: every part that AWS would provide, wired to the same handlers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pvm_application::{keys_admin, signing};
use pvm_asl::{Engine, EngineBuilder, Home, ServerOptions};
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, DynamoSettings, MachineNames, Objects, Tables, Workflows};
use pvm_domain::ids::OwnerId;
use pvm_entry::settings::Secret;
use pvm_entry::{Settings, Signer, System};
use pvm_sandboxd::{EgressSettings, Server, ServerHandle, Shutdown, StartError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::functions::Functions;
use crate::lock::HomeLock;
use crate::{agent_files, front, key_files, machines, workers};
use pvm_embedded::dynamo::EmbeddedDynamo;
use pvm_embedded::s3::{S3Config, S3Host};

/// Who owns what the first keys make.
pub const OWNER: &str = "local";
const REGION: &str = "us-east-1";
const BUCKET: &str = "pvm-files";
/// Names the access key that our own clients sign with; the engine answers no other.
const SFN_KEY: &str = "pvm-embedded";

/// How a stack is started.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// The settings; addresses with port 0 take free ports.
    pub settings: Settings,
    /// Folder of the templates; the machine's own if none.
    pub template_dir: Option<PathBuf>,
    /// What sandboxes may reach, instead of what the environment says.
    pub egress: Option<EgressSettings>,
    /// How often clean-up runs.
    pub sweep_every: Duration,
    /// Build the `base` template in the background where it is missing.
    pub build_base: bool,
}

impl StackConfig {
    /// The usual way for these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            template_dir: None,
            egress: None,
            sweep_every: Duration::from_secs(30),
            build_base: true,
        }
    }
}

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    /// Where the API listens.
    pub http_addr: SocketAddr,
    /// Where the E2B door listens.
    pub e2b_addr: SocketAddr,
    /// Where the file store listens.
    pub s3_addr: SocketAddr,
    /// The first API key.
    pub api_key: String,
    /// The first key in E2B's form.
    pub e2b_api_key: String,
    /// The state machines' engine.
    pub engine: Engine,
    /// The wired adapters.
    pub app: Arc<crate::App>,
    sandboxd: ServerHandle,
    s3: S3Host,
    stop: CancellationToken,
    tasks: TaskTracker,
    _lock: HomeLock,
}

impl Stack {
    /// Starts everything; returns when the API answers.
    ///
    /// # Errors
    /// One sentence that says what is in the way and what to do.
    pub async fn start(config: StackConfig) -> anyhow::Result<Self> {
        let mut settings = config.settings.clone();
        if settings.operators.is_empty() {
            // The one who runs the install.
            settings.operators.push(OWNER.to_owned());
        }
        let home = absolute(&settings.home)?;
        let lock = HomeLock::take(&home)?;
        // All ports first: one that is taken must not leave a half-started system behind.
        let http = listen("PVM_HTTP_ADDR", settings.http_addr).await?;
        let sfn = listen("loopback", SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let api_key = key_files::read_or_make(&home.join("api-key"), keys_admin::new_secret)?;
        let e2b_api_key = key_files::read_or_make(&home.join("e2b-api-key"), keys_admin::new_e2b_secret)?;

        let dynamo = EmbeddedDynamo::open(&home.join("dynamodb.sqlite"))?;
        let (events, uploads) = tokio::sync::mpsc::unbounded_channel();
        let s3 = S3Host::start(S3Config {
            addr: settings.s3_addr,
            folder: home.join("s3"),
            region: REGION.to_owned(),
            events: Some(events),
            events_prefix: "p/".to_owned(),
        })
        .await?;
        let base = clients::load(ClientSettings {
            region: Some(REGION.to_owned()),
            credentials: Some(s3.credentials()),
            dynamodb_http: Some(dynamo.http_client()),
            s3_url: Some(s3.url()),
            ..ClientSettings::default()
        })
        .await;
        let tables = Tables { app: "pvm-app".to_owned(), events: "pvm-events".to_owned() };
        pvm_aws::schema::create_missing(&base.dynamodb(), &tables).await?;
        let store = Dynamo::with_settings(
            base.dynamodb(),
            tables,
            DynamoSettings { poll_interval: None, ..DynamoSettings::default() },
        );
        let objects = Objects::new(base.s3(), BUCKET);
        objects.create_bucket_if_missing().await?;
        let workflow = workflows(sfn.local_addr()?).await;

        let owner = OwnerId::parse(OWNER)?;
        keys_admin::ensure(&store, &System, &owner, "first key", &api_key).await?;
        keys_admin::ensure(&store, &System, &owner, "first key for E2B's SDKs", &e2b_api_key).await?;
        let signer = Signer::new(&Secret::new(signing::ensure(&store, &System).await?))?;

        let sandboxd = sandboxd(&config, &home, &store).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (ask_save, saves) = tokio::sync::mpsc::unbounded_channel();
        let (ask_archive, archives) = tokio::sync::mpsc::unbounded_channel();
        let app = Arc::new(crate::app::build(crate::app::Parts {
            settings: settings.clone(),
            store: store.clone(),
            objects: objects.clone(),
            workflow,
            signer,
            bedrock: pvm_entry::bedrock_of_environment(&settings).await,
            e2b_addr: sandboxd.address(),
            e2b_api_key: e2b_api_key.clone(),
            ask_save,
            ask_archive,
        })?);

        let changed = agent_files::load(&app.store, &app.models, &owner, &settings.agents_dir).await?;
        if !changed.is_empty() {
            tracing::info!(agents = changed.join(", "), "agents were read from their files");
        }
        let engine = engine(&home, Arc::clone(&app)).await?;
        let options = ServerOptions { access_key_id: Some(SFN_KEY.to_owned()) };
        let router = pvm_asl::router(engine.clone(), options);
        let ended = stop.clone();
        tasks.spawn(async move {
            let served = axum::serve(sfn, router).with_graceful_shutdown(ended.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the workflow engine's listener failed");
            }
        });
        let http_addr = http.local_addr()?;
        let router = Arc::new(front::router(Arc::clone(&app))?);
        tasks.spawn(front::serve(http, router, stop.clone()));
        workers::start(&tasks, &stop, &app, workers::Queues { uploads, saves, archives }, config.sweep_every);
        let ended = stop.clone();
        tasks.spawn(async move {
            // What DynamoDB does by itself: text pieces and counts of past minutes go when their time is over.
            tokio::select! {
                () = ended.cancelled() => {}
                () = dynamo.sweep_forever() => {}
            }
        });
        if config.build_base {
            workers::build_base(&tasks, config.template_dir.clone());
        }
        let s3_addr = s3.addr();
        let e2b_addr = sandboxd.address();
        Ok(Self {
            http_addr,
            e2b_addr,
            s3_addr,
            api_key,
            e2b_api_key,
            engine,
            app,
            sandboxd,
            s3,
            stop,
            tasks,
            _lock: lock,
        })
    }

    /// Ends the stack: workspaces are saved, then VMs end up as `vms` says. Nothing is left behind.
    ///
    /// # Errors
    /// Of the VM server; the rest is ended all the same.
    pub async fn shutdown(self, vms: Shutdown) -> anyhow::Result<()> {
        self.stop.cancel();
        self.tasks.close();
        // Requests under way get a moment; a stream or a long command must not hold up the end.
        drop(tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await);
        if vms == Shutdown::PauseAll {
            workers::save_and_pause(&self.app).await;
        }
        self.engine.shutdown().await;
        self.sandboxd.shutdown(vms).await;
        self.s3.shutdown().await;
        Ok(())
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is not a usable folder", path.display()))
}

async fn listen(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => in_use(addr, setting),
        _ => anyhow::anyhow!("cannot listen on {addr} ({setting}): {error}"),
    })
}

fn in_use(addr: SocketAddr, setting: &str) -> anyhow::Error {
    anyhow::anyhow!("{addr} is in use; stop what listens there, or set {setting} to another address")
}

async fn workflows(addr: SocketAddr) -> Workflows {
    let credentials = StaticCredentials { access_key: SFN_KEY.to_owned(), secret_key: SFN_KEY.to_owned() };
    let base = clients::load(ClientSettings {
        region: Some(REGION.to_owned()),
        credentials: Some(credentials),
        sfn_url: Some(format!("http://{addr}")),
        ..ClientSettings::default()
    })
    .await;
    let home = Home::default();
    let names = MachineNames {
        partition: "aws".to_owned(),
        region: home.region,
        account: home.account,
        run_turn: machines::RUN_TURN.to_owned(),
        vm_lifecycle: machines::VM_LIFECYCLE.to_owned(),
    };
    Workflows::new(base.sfn(), names)
}

async fn engine(home: &Path, app: Arc<crate::App>) -> anyhow::Result<Engine> {
    let on_end = Arc::clone(&app);
    let mut builder = EngineBuilder::new(home.join("workflow.sqlite"), Functions::new(app));
    for machine in machines::load()? {
        builder = builder.machine(machine);
    }
    let builder = builder.on_end(move |execution| {
        let app = Arc::clone(&on_end);
        Box::pin(async move { workers::execution_ended(&app, &execution).await })
    });
    Ok(builder.open().await?)
}

async fn sandboxd(config: &StackConfig, home: &Path, store: &Dynamo) -> anyhow::Result<ServerHandle> {
    let mut server = pvm_sandboxd::Config::new(home.join("sandboxes"));
    server.listen = config.settings.e2b_addr;
    server.authenticate = Arc::new(front::Keys::new(store.clone()));
    if let Some(dir) = &config.template_dir {
        server.template_dir.clone_from(dir);
    }
    server.egress.ca_file.clone_from(&config.settings.egress_ca_file);
    if let Some(egress) = &config.egress {
        server.egress = egress.clone();
    }
    Server::start(server).await.map_err(|error| match error {
        StartError::AddressInUse(addr) => in_use(addr, "PVM_E2B_ADDR"),
        other => other.into(),
    })
}
