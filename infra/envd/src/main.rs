//! The program: PID 1 of a sandbox, or an ordinary server for tests.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use pvm_e2b_wire::envd_http::InitRequest;
use pvm_e2b_wire::launch::Launch;
use pvm_envd::daemon::{Daemon, Settings};
use pvm_envd::journal::DEFAULT_ROOT;
use pvm_envd::options::{self, Alone, Options, USAGE};
use pvm_envd::router::Origin;
use pvm_envd::{control, disk_guard, egress, log, memory, sandbox_init, server};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Duration, interval};

/// How often old records of the journal are looked for.
const PRUNE_EVERY: Duration = Duration::from_hours(1);
/// Threads for file work at one time. They hold no client's pace, so few are enough.
const FILE_THREADS: usize = 32;
/// User of requests that name none, in a sandbox whose `/init` names none.
const SANDBOX_USER: &str = "user";

fn main() -> ExitCode {
    // Whatever the starter's was: files that clients make are to be readable.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let result = match options::parse(std::env::args().skip(1)) {
        Ok(Options::Help) => say(USAGE),
        Ok(Options::Version) => say(pvm_e2b_wire::ENVD_VERSION),
        Ok(Options::Init { config_fd }) => run_sandbox(config_fd),
        Ok(Options::Alone(options)) => run_alone(options),
        Err(mistake) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{mistake}\n{USAGE}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr().lock(), "envd: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}

/// One thread: starting a process and registering it for its end must not be interleaved with collecting ends.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(FILE_THREADS).build()
}

fn run_sandbox(config_fd: i32) -> io::Result<()> {
    // Before any thread exists: what it changes belongs to the thread.
    let entered = sandbox_init::enter(config_fd).map_err(io::Error::other)?;
    runtime()?.block_on(serve_sandbox(entered.launch, entered.control, entered.data))
}

async fn serve_sandbox(launch: Launch, control: OwnedFd, data: OwnedFd) -> io::Result<()> {
    const MIB: u64 = 1024 * 1024;
    let daemon = Daemon::new(Settings {
        in_sandbox: true,
        boot_id: launch.boot_id,
        journal: DEFAULT_ROOT.into(),
        environment: launch.environment,
        cpu_count: Some(launch.limits.cpu_count).filter(|count| *count > 0),
        memory_bytes: Some(launch.limits.memory_mb * MIB).filter(|bytes| *bytes > 0),
        disk_bytes: Some(launch.limits.disk_mb * MIB).filter(|bytes| *bytes > 0),
        default_user: SANDBOX_USER.to_owned(),
        default_workdir: None,
    })?;
    if !launch.init.is_null() {
        let init: InitRequest = serde_json::from_value(launch.init)?;
        control::apply_init(&daemon, init, true).await.map_err(io::Error::other)?;
    }
    daemon.deadline.set(launch.end_at_unix_ms.map(u64::cast_signed));
    if let Some(socket) = launch.egress_socket {
        tokio::spawn(async move {
            if let Err(error) = egress::serve(socket.into()).await {
                log::warn("the way to the network could not be opened", json!({"error": error.to_string()}));
            }
        });
    }
    clean_up_now_and_then(&daemon);
    tokio::spawn(disk_guard::watch());
    tokio::spawn(server::serve_unix(Arc::clone(&daemon), unix_listener(control)?, Origin::Control));
    tokio::spawn(server::serve_unix(Arc::clone(&daemon), unix_listener(data)?, Origin::Data));
    control::wait_for_deadline(daemon).await;
    Ok(())
}

fn unix_listener(descriptor: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(descriptor);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn run_alone(options: Alone) -> io::Result<()> {
    runtime()?.block_on(serve_alone(options))
}

async fn serve_alone(options: Alone) -> io::Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let daemon = Daemon::new(Settings {
        in_sandbox: false,
        boot_id: boot_id.trim().to_owned(),
        journal: options.journal,
        environment: std::collections::BTreeMap::new(),
        cpu_count: None,
        memory_bytes: None,
        disk_bytes: None,
        default_user: options.default_user,
        default_workdir: options.default_workdir,
    })?;
    let listener = TcpListener::bind(options.listen).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}; choose another port", options.listen),
        )
    })?;
    clean_up_now_and_then(&daemon);
    if let Some(path) = options.control_socket {
        let control = UnixListener::bind(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        })?;
        tokio::spawn(server::serve_unix(Arc::clone(&daemon), control, Origin::Control));
    }
    say(&format!("listening on {}", listener.local_addr()?))?;
    tokio::select! {
        () = server::serve_tcp(Arc::clone(&daemon), listener) => {}
        () = control::wait_for_deadline(daemon) => {}
    }
    Ok(())
}

fn clean_up_now_and_then(daemon: &Arc<Daemon>) {
    tokio::spawn(memory::give_back_now_and_then());
    let journal = Arc::clone(&daemon.journal);
    tokio::spawn(async move {
        let mut hours = interval(PRUNE_EVERY);
        loop {
            hours.tick().await;
            let journal = Arc::clone(&journal);
            tokio::task::spawn_blocking(move || journal.prune(SystemTime::now())).await.ok();
        }
    });
}
