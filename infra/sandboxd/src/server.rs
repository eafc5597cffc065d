//! The server: checks the machine, takes over what is there, and listens.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pvm_e2b_wire::launch::LaunchLimits;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::client_stream::ClientStream;
use crate::config::Config;
use crate::egress::Egress;
use crate::engine::{Engine, Parts, Shutdown};
use crate::error::StartError;
use crate::isolation::cgroup::{Groups, Hierarchy};
use crate::isolation::mode::Isolation;
use crate::isolation::spawner::Spawner;
use crate::store::{Layout, Lock, read_json, write_json};
use crate::templates::{Catalog, Templates};
use crate::{control, envd_image, proxy};

/// How long a client may take to send the head of a request: half-open connections go away.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long open connections may take to finish at shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Extended attribute that shows whether a file system can hold overlay layers.
const PROBE: &str = "trusted.overlay.probe";
/// The same for overlays that a plain user mounts.
const PLAIN_PROBE: &str = "user.overlay.probe";

/// Starts servers.
#[derive(Debug, Clone, Copy)]
pub struct Server;

/// A running server. Dropping it stops listening and leaves the sandboxes running, as a crash would; prefer
/// [`ServerHandle::shutdown`].
#[derive(Debug)]
pub struct ServerHandle {
    address: SocketAddr,
    engine: Arc<Engine>,
    templates: Templates,
    closing: CancellationToken,
    connections: TaskTracker,
    /// Held for the server's lifetime: one server per state folder.
    _lock: Lock,
}

impl Server {
    /// Starts a server and returns when it accepts requests.
    ///
    /// # Errors
    /// [`StartError`], a sentence that says what to do.
    pub async fn start(config: Config) -> Result<ServerHandle, StartError> {
        check_machine()?;
        raise_open_files();
        let state_dir = config.state_dir.clone();
        let opening = StartError::in_folder(&state_dir, "opening the state folder");
        let layout = Layout::open(&state_dir).map_err(opening)?;
        let lock = layout
            .lock()
            .map_err(StartError::at("locking the state folder"))?
            .ok_or_else(|| StartError::StateInUse(state_dir.clone()))?;
        check_file_system(layout.root())?;
        // Listening first: a port in use is found out before anything is touched.
        let listener = listen(config.listen).await?;
        let address = listener.local_addr().map_err(StartError::at("listening"))?;

        let mode = Isolation::current();
        let hierarchy = if mode.is_root() {
            Hierarchy::detect().map_err(StartError::NoControlGroups)?
        } else {
            Hierarchy::Absent
        };
        let instance = instance(&layout)?;
        hierarchy.prepare(&instance).map_err(StartError::at("making control groups"))?;
        let templates = Templates::open(&config.template_dir)
            .map_err(StartError::in_folder(&config.template_dir, "opening the template folder"))?;
        ready_template(&templates).await?;
        let catalog = Catalog::open(templates.clone(), &layout)
            .map_err(StartError::at("reading the stored templates"))?;
        let groups = Groups::new(hierarchy, instance);
        let spawner = start_spawner(&state_dir, groups.clone(), config.limits)?;
        let engine = Engine::new(Parts {
            egress: Egress::new(config.egress.clone())
                .map_err(StartError::at("preparing the egress proxy"))?,
            config,
            layout,
            templates: catalog,
            spawner,
            groups,
            host_boot_id: host_boot_id()?,
        });
        engine.listens_on(address);
        engine.adopt_all().await.map_err(StartError::at("taking over earlier sandboxes"))?;
        engine.tasks.spawn(Arc::clone(&engine).expire_continually());
        engine.tasks.spawn(Arc::clone(&engine).sample_continually());
        engine.tasks.spawn(Arc::clone(&engine).watch_disk_continually());
        engine.remove_unused_layers();

        let (closing, connections) = (CancellationToken::new(), TaskTracker::new());
        tokio::spawn(accept(listener, Arc::clone(&engine), closing.clone(), connections.clone()));
        tracing::info!(isolation = mode.description(), "how sandboxes are kept apart");
        tracing::info!(%address, state = %state_dir.display(), "sandbox server is listening");
        Ok(ServerHandle { address, engine, templates, closing, connections, _lock: lock })
    }
}

impl ServerHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Root file systems: their state, and building them.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// How sandboxes are kept apart on this machine, for people and for `capabilities`.
    pub fn isolation(&self) -> &'static str {
        Isolation::current().description()
    }

    /// Stops listening, deals with the sandboxes as told, and waits until all of it is done.
    pub async fn shutdown(self, mode: Shutdown) {
        self.closing.cancel();
        self.connections.close();
        let engine = Arc::clone(&self.engine);
        // Connections first get their chance: a request under way may be what the client waits for.
        if tokio::time::timeout(CLOSE_TIMEOUT, self.connections.wait()).await.is_err() {
            tracing::debug!("connections that did not finish are cut");
        }
        engine.shut_down(mode).await;
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.closing.cancel();
        self.engine.stopping.cancel();
    }
}

fn check_machine() -> Result<(), StartError> {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let limit = limit.trim();
    if limit.is_empty() || limit == "0" {
        return Err(StartError::NoUserNamespaces(limit.to_owned()));
    }
    Ok(())
}

/// Each sandbox takes a handful of descriptors, and the usual soft limit is for programs with far fewer.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// An overlay's upper layer needs attributes that some file systems (NFS, some container layers) refuse.
fn check_file_system(root: &Path) -> Result<(), StartError> {
    let file = root.join("probe");
    let result = std::fs::write(&file, b"")
        .and_then(|()| {
            xattr::set(&file, if Isolation::current().is_root() { PROBE } else { PLAIN_PROBE }, b"y")
        })
        .and_then(|()| std::fs::remove_file(&file));
    result.map_err(|source| match source.kind() {
        std::io::ErrorKind::StorageFull => StartError::DiskFull(root.to_owned()),
        _ => StartError::UnfitFileSystem { path: root.to_owned(), source },
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::AddressInUse(address),
        _ => StartError::Listen { address, source },
    })
}

/// The name of this state folder's control groups: chosen once, so that they are found again after a crash.
fn instance(layout: &Layout) -> Result<String, StartError> {
    let reading = StartError::at("reading the state folder's name");
    if let Some(name) = read_json(&layout.instance()).map_err(reading)? {
        return Ok(name);
    }
    let name = hex::encode(rand::random::<[u8; 6]>());
    write_json(&layout.instance(), &name)
        .map_err(StartError::in_folder(layout.root(), "naming the state folder"))?;
    Ok(name)
}

fn host_boot_id() -> Result<String, StartError> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(StartError::at("reading the machine's boot id"))
}

/// `host` takes under a second to make, once for each state of the machine's packages, so that sandboxes can be made
/// at once. A machine that cannot have it does without when `base` is there.
async fn ready_template(templates: &Templates) -> Result<(), StartError> {
    let has_base = templates.status("base").is_ok_and(|status| status.ready);
    let templates = templates.clone();
    let built = tokio::task::spawn_blocking(move || templates.build("host", &|_| {}))
        .await
        .map_err(|error| StartError::NoTemplate(error.to_string()))?;
    match built {
        Err(error) if has_base => {
            tracing::info!(%error, "the template host is not available");
            Ok(())
        }
        other => other.map(|_| ()).map_err(|error| StartError::NoTemplate(error.to_string())),
    }
}

fn start_spawner(state_dir: &Path, groups: Groups, limits: LaunchLimits) -> Result<Spawner, StartError> {
    let image = envd_image::sealed().map_err(StartError::at("preparing envd"))?;
    // Only for people who look for a fault in envd itself.
    let log: Option<OwnedFd> = match std::env::var_os("PVM_ENVD_LOG") {
        Some(_) => Some(
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(state_dir.join("envd.log"))
                .map_err(StartError::at("opening envd's log"))?
                .into(),
        ),
        None => None,
    };
    Spawner::start(&image, log.as_ref(), groups, limits).map_err(StartError::NoSandboxes)
}

async fn accept(
    listener: TcpListener,
    engine: Arc<Engine>,
    closing: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                stream.set_nodelay(true).ok();
                connections.spawn(connection(Arc::clone(&engine), stream, client, closing.clone()));
            }
            Err(error) => {
                // Mostly: out of descriptors. Others may close some meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(engine: Arc<Engine>, stream: TcpStream, address: SocketAddr, closing: CancellationToken) {
    let stream = ClientStream::new(stream);
    let client = Arc::new(proxy::Client { address, stream: stream.clone() });
    let service = service_fn(|request: Request<Incoming>| {
        let (engine, client) = (Arc::clone(&engine), Arc::clone(&client));
        async move { Ok::<_, Infallible>(answer(engine, request, client).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // As E2B's servers write them; not every client compares names without regard to case.
        .title_case_headers(true)
        .half_close(true)
        .serve_connection(TokioIo::new(stream.clone()), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // With half-closed connections allowed, hyper does not look at the socket while a request is served: whoever hung up
        // would keep what it asked for busy for as long as that is silent.
        () = stream.broken() => return,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => ended,
                () = stream.broken() => return,
                () = engine.stopping.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client = %address, %error, "connection ended");
    }
}

async fn answer(
    engine: Arc<Engine>,
    request: Request<Incoming>,
    client: Arc<proxy::Client>,
) -> Response<Body> {
    match proxy::target_of(&engine, request.method(), request.uri(), request.headers()) {
        Some(target) => proxy::serve(&engine, target, request, client).await,
        None => to_its_end(engine, request).await,
    }
}

/// Serves a control-plane request to its end even when its client hangs up: what is half made would stay so.
async fn to_its_end(engine: Arc<Engine>, request: Request<Incoming>) -> Response<Body> {
    let serving = {
        let engine = Arc::clone(&engine);
        async move {
            tokio::select! {
                response = control::serve(&engine, request) => response,
                () = engine.stopping.cancelled() => control::stopping(),
            }
        }
    };
    engine.tasks.spawn(serving).await.unwrap_or_else(|_| control::stopping())
}
