//! Cold starts: a sandbox's folder becomes a running sandbox, the first time or after a pause that kept the files
//! only.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use pvm_e2b_wire::envd_http::InitRequest;
use pvm_e2b_wire::launch::{Launch, LaunchLimits};

use super::create::blocking;
use super::sandbox::{Process, Runtime};
use super::{Engine, EngineError, Sandbox};
use crate::envd::{CONTROL_SOCKET, DATA_SOCKET};
use crate::isolation::spawner::{Blueprint, RootPart, Started, View};
use crate::store::{PauseKind, Phase, Record, RecordedProcess, SandboxFolder};

/// Host name inside; templates name it in their `/etc/hosts`.
pub(crate) const HOSTNAME: &str = "pvm";
/// Folder inside where the host's egress folder is shown.
const EGRESS_FOLDER: &str = "/run/pvm/egress";
/// Most connections that may wait to be accepted on envd's sockets.
const BACKLOG: i32 = 512;

impl Engine {
    /// Starts a sandbox whose record is stored. On an error its processes are gone; folder and groups may be left.
    pub(super) async fn start(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        limits: &LaunchLimits,
    ) -> Result<(), EngineError> {
        let blueprint = {
            let (engine, sandbox, limits) = (Arc::clone(self), Arc::clone(sandbox), *limits);
            blocking(move || engine.blueprint(&sandbox, &limits))
                .await
                .map_err(EngineError::at("preparing"))?
        };
        let spawner = self.spawner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let spawner = spawner.ok_or_else(|| EngineError::Capacity("the server is stopping".into()))?;
        let started = spawner.spawn(blueprint).await.map_err(EngineError::at("starting the sandbox"))?;
        self.attach(sandbox, started).await.map_err(EngineError::at("starting the sandbox"))
    }

    /// Everything on disk and in the kernel that a start needs, but no process yet.
    fn blueprint(&self, sandbox: &Sandbox, limits: &LaunchLimits) -> std::io::Result<Blueprint> {
        let record = sandbox.snapshot();
        let folder = &sandbox.folder;
        let plan = self.templates.parts(&record.origin)?;
        folder.furnish(plan.len(), record.range.base())?;
        let parts = plan
            .into_iter()
            .enumerate()
            .map(|(index, part)| RootPart {
                target: part.target,
                lower: part.lower,
                upper: folder.upper(index),
                work: folder.work(index),
            })
            .collect();
        Ok(Blueprint {
            launch: launch(&record, limits),
            range: record.range,
            parts,
            views: vec![View { target: EGRESS_FOLDER.into(), source: folder.egress() }],
            control: listen(folder, CONTROL_SOCKET)?,
            data: listen(folder, DATA_SOCKET)?,
            scratch: folder.scratch(),
        })
    }

    /// Makes a started process known and served.
    async fn attach(self: &Arc<Self>, sandbox: &Arc<Sandbox>, started: Started) -> std::io::Result<()> {
        let Started { pid, start_ticks, pidfd, group } = started;
        let process = Process::new(pidfd)?;
        let attached = async {
            let runtime = Runtime::new(Arc::clone(&process), &sandbox.folder)?;
            sandbox.update(|record| {
                record.phase = Phase::Running;
                record.process = Some(RecordedProcess { pid, start_ticks });
                record.group = Some(group);
                record.host_boot_id.clone_from(&self.host_boot_id);
            })?;
            self.serve_egress(sandbox, &process)?;
            Ok(runtime)
        };
        match attached.await {
            Ok(runtime) => {
                sandbox.set_runtime(Some(runtime));
                self.watch(sandbox, process);
                Ok(())
            }
            Err(error) => {
                process.kill()?;
                process.ended().await;
                Err(error)
            }
        }
    }

    /// Opens the way out of the sandbox, for as long as its process lives.
    pub(super) fn serve_egress(&self, sandbox: &Arc<Sandbox>, process: &Process) -> std::io::Result<()> {
        self.egress.serve(sandbox, &self.tasks, process.gone.clone(), &self.stopping)
    }

    /// Notices when a sandbox's process ends without the server having ended it. The files are kept: the sandbox
    /// becomes paused, and resuming starts it anew.
    pub(super) fn watch(self: &Arc<Self>, sandbox: &Arc<Sandbox>, process: Arc<Process>) {
        let (engine, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        self.tasks.spawn(async move {
            tokio::select! {
                () = process.ended() => {}
                () = engine.stopping.cancelled() => return,
            }
            process.gone.cancel();
            if process.expected_end.load(Ordering::SeqCst) {
                return;
            }
            let _turn = sandbox.transition.lock().await;
            let still_ours =
                sandbox.any_runtime().is_some_and(|runtime| Arc::ptr_eq(&runtime.process, &process));
            if !still_ours || engine.closing.load(Ordering::SeqCst) {
                return;
            }
            tracing::warn!(sandbox.id = sandbox.id(), "the sandbox ended by itself; its files are kept");
            sandbox.note(
                engine.now_ms(),
                "error",
                "Sandbox ended unexpectedly; its files are kept, it is paused",
            );
            sandbox.set_runtime(None);
            engine.settle_as_files(&sandbox).await;
        });
    }

    /// Records that a sandbox without processes has its files only, and removes its groups.
    pub(super) async fn settle_as_files(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let updated = sandbox.update(|record| {
            record.phase = Phase::Paused(PauseKind::Filesystem);
            record.process = None;
            record.group.take()
        });
        let result = match updated {
            Ok(Some(group)) => blocking(move || group.remove()).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::error!(sandbox.id = sandbox.id(), %error, "the end of a sandbox could not be recorded");
        }
    }
}

fn launch(record: &Record, limits: &LaunchLimits) -> Launch {
    let mut env_vars = record.env_vars.clone();
    for (name, value) in [
        ("E2B_SANDBOX", "true"),
        ("E2B_SANDBOX_ID", record.id.as_str()),
        ("E2B_TEMPLATE_ID", record.template_id.as_str()),
    ] {
        env_vars.entry(name.into()).or_insert_with(|| value.into());
    }
    let init = InitRequest {
        env_vars,
        access_token: record.envd_token.clone(),
        default_user: Some(record.origin.user.clone()),
        default_workdir: record.origin.workdir.clone(),
        ca_bundle: record.authority.as_ref().map(|authority| authority.certificate.clone()),
        ..InitRequest::default()
    };
    Launch {
        sandbox_id: record.id.clone(),
        boot_id: crate::templates::new_uuid(),
        hostname: HOSTNAME.into(),
        attach: Vec::new(),
        limits: *limits,
        environment: base_environment(),
        init: serde_json::to_value(init).unwrap_or_default(),
        egress_socket: Some(format!("{EGRESS_FOLDER}/{}", crate::egress::SOCKET)),
        end_at_unix_ms: Some(record.end_at_ms),
        own_root: None,
    }
}

/// Variables that make programs use the egress proxy and trust what the host trusts.
fn base_environment() -> BTreeMap<String, String> {
    const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    const PROXY: &str = "http://127.0.0.1:3128";
    const DIRECT: &str = "localhost,127.0.0.1,::1";
    let mut variables = BTreeMap::new();
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        variables.insert(name.to_owned(), PROXY.to_owned());
    }
    for name in ["no_proxy", "NO_PROXY"] {
        variables.insert(name.to_owned(), DIRECT.to_owned());
    }
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
    ] {
        variables.insert(name.to_owned(), BUNDLE.to_owned());
    }
    for (name, value) in [
        // Newer Node honours the proxy variables for its own fetch only when told to.
        ("NODE_USE_ENV_PROXY", "1"),
        ("LANG", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
    ] {
        variables.insert(name.to_owned(), value.to_owned());
    }
    variables
}

/// Listens on a fresh socket in the sandbox's `run` folder, by way of a descriptor of the folder (see
/// `envd::pool::SocketAddress`).
fn listen(folder: &SandboxFolder, name: &str) -> std::io::Result<UnixListener> {
    let run = std::fs::File::open(folder.run())?;
    let path = format!("/proc/self/fd/{}/{name}", run.as_raw_fd());
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The standard library's queue is short for a burst of connections before envd is up.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
