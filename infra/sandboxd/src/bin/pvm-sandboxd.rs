//! The sandbox server alone, for people who want an E2B-compatible server and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use pvm_sandboxd::{
    Config, DEFAULT_LISTEN, Server, ServerHandle, Shutdown, StaticKeys, default_template_dir,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Whom sandboxes belong to: this program has one user, whatever key is used.
const OWNER: &str = "operator";

/// An E2B-compatible sandbox server on this machine. Sandboxes are kept apart best when root runs it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on; control plane and sandboxes alike.
    #[arg(long, env = "PVM_E2B_ADDR", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Folder for sandboxes and snapshots.
    #[arg(long, env = "PVM_SANDBOXD_STATE", default_value_os_t = default_state_dir())]
    state: PathBuf,
    /// Folder for root file systems, shared between servers.
    #[arg(long, env = "PVM_TEMPLATES", default_value_os_t = default_template_dir())]
    templates: PathBuf,
    /// API keys that are valid, separated by commas. Without any, one is made and kept in the state folder.
    #[arg(long, env = "PVM_E2B_API_KEYS", value_delimiter = ',', hide_env_values = true)]
    api_keys: Vec<String>,
    /// Domain of the host names by which ports are reached, when it is not `localhost:<port>`.
    #[arg(long, env = "E2B_DOMAIN")]
    domain: Option<String>,
    /// What becomes of running sandboxes when the server is stopped by a signal.
    #[arg(long, env = "PVM_SANDBOXD_ON_STOP", value_enum, default_value_t = OnStop::Pause)]
    on_stop: OnStop,
    /// Build the template `base` in the background when it is not there.
    #[arg(long, env = "PVM_BUILD_BASE", default_value_t = true, action = clap::ArgAction::Set)]
    build_base: bool,
    /// Unpack a root file system archive as the template of this name (`name=archive.tar.gz`) and exit.
    #[arg(long, value_name = "NAME=ARCHIVE")]
    import: Option<String>,
}

/// Root's is the system's; everybody else's is in the home.
fn default_state_dir() -> PathBuf {
    match std::env::var_os("HOME") {
        Some(home) if !rustix::process::geteuid().is_root() => {
            PathBuf::from(home).join(".local/state/pvm-sandboxd")
        }
        _ => PathBuf::from("/var/lib/pvm-sandboxd"),
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnStop {
    /// They go on and are adopted at the next start.
    Detach,
    /// Their processes end, their files are kept.
    Pause,
    /// They are removed.
    Kill,
}

#[tokio::main]
async fn main() -> ExitCode {
    start_logging();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes = std::iter::successors(error.source(), |cause| cause.source());
            let causes: String = causes.map(|cause| format!(": {cause}")).collect();
            tracing::error!("{error}{causes}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var("PVM_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(import) = &arguments.import {
        let (name, archive) = import.split_once('=').ok_or("--import needs NAME=ARCHIVE")?;
        let templates = pvm_sandboxd::Templates::open(&arguments.templates)?;
        let path = templates.import(name, archive.as_ref())?;
        tracing::info!(path = %path.display(), "template {name} is ready");
        return Ok(());
    }
    // Before anything listens: a signal that comes early is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut config = Config::new(&arguments.state);
    config.listen = arguments.listen;
    config.template_dir = arguments.templates;
    config.domain = arguments.domain;
    let mut keys = arguments.api_keys;
    keys.retain(|key| !key.is_empty());
    if keys.is_empty() {
        keys.push(own_key(&arguments.state)?);
    }
    config.authenticate = Arc::new(StaticKeys::new(keys.iter().map(|key| (key.as_str(), OWNER))));
    let server = Server::start(config).await?;
    let address = server.address();
    tracing::info!("set E2B_API_URL=http://{address} E2B_SANDBOX_URL=http://{address} for E2B's SDKs");
    if arguments.build_base {
        build_base(&server);
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    server
        .shutdown(match arguments.on_stop {
            OnStop::Detach => Shutdown::Detach,
            OnStop::Pause => Shutdown::PauseAll,
            OnStop::Kill => Shutdown::KillAll,
        })
        .await;
    Ok(())
}

/// Builds `base` on a thread of its own: it takes half a minute, and the server is usable meanwhile.
fn build_base(server: &ServerHandle) {
    let templates = server.templates().clone();
    if templates.status("base").is_ok_and(|status| status.ready) {
        return;
    }
    std::thread::spawn(move || {
        let progress = |progress: pvm_sandboxd::Progress| {
            tracing::info!("template base: {} ({:.0} %)", progress.step, progress.fraction * 100.0);
        };
        match templates.build("base", &progress) {
            Ok(_) => tracing::info!("template base is ready"),
            Err(error) => tracing::warn!("{error}; the template host is used instead"),
        }
    });
}

/// The key in `<state>/api-key`, in the form that E2B's SDKs expect; made at the first start.
fn own_key(state: &std::path::Path) -> std::io::Result<String> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let path = state.join("api-key");
    if let Ok(key) = std::fs::read_to_string(&path) {
        return Ok(key.trim().to_owned());
    }
    let key = format!("e2b_{}", hex::encode(rand::random::<[u8; 20]>()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    writeln!(file, "{key}")?;
    tracing::info!(path = %path.display(), "a new API key was made");
    Ok(key)
}
