//! `process.Process`: start, list, connect, input, signals.

pub mod hub;
pub mod pump;
pub mod spawn;
pub mod status;
pub mod table;
pub mod terminal;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::Stream;
use hyper::StatusCode;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::process::{
    ConnectRequest, Empty, ListRequest, ListResponse, ProcessConfig, SendInputRequest, SendSignalRequest,
    Signal, StartRequest, StartResponse, StreamInputRequest, UpdateRequest,
};
use serde_json::json;
use tokio::net::unix::pipe;
use tokio::time::{Duration, interval, sleep};

use crate::accounts::Account;
use crate::daemon::Daemon;
use crate::http::rpc::{self, Messages, invalid};
use crate::http::{Request, Response, reply};
use crate::{log, paths};
use hub::{Hub, Next, Subscription};
use pump::Pumps;
use spawn::{Ends, Plan, Streams};
use table::{Input, Process};

/// Tag that E2B keeps for itself.
const RESERVED_TAG: &str = "_system";

/// Serves a method of the service.
pub async fn serve(daemon: &Arc<Daemon>, method: &str, request: Request) -> Response {
    let buffers = &daemon.buffers;
    match method {
        "List" => rpc::unary(buffers, request, async |_: ListRequest| Ok(list(daemon))).await,
        "Start" => start(daemon, request).await,
        "Connect" => connect(daemon, request).await,
        "SendInput" => {
            rpc::unary(buffers, request, async |question: SendInputRequest| {
                let process = daemon.processes.find_running(&question.process)?;
                process.write(question.input).await.map(|()| Empty {})
            })
            .await
        }
        "StreamInput" => {
            rpc::client_stream(buffers, request, |messages| stream_input(daemon, messages)).await
        }
        "CloseStdin" => {
            rpc::unary(buffers, request, async |question: ConnectRequest| {
                daemon.processes.find_running(&question.process)?.close_stdin().await.map(|()| Empty {})
            })
            .await
        }
        "SendSignal" => {
            rpc::unary(buffers, request, async |question: SendSignalRequest| {
                send_signal(daemon, &question).await
            })
            .await
        }
        "Update" => rpc::unary(buffers, request, async |question| update(daemon, &question)).await,
        _ => reply::error_reply(StatusCode::NOT_FOUND, "process.Process has no such method"),
    }
}

fn list(daemon: &Daemon) -> ListResponse {
    ListResponse { processes: daemon.processes.running().iter().map(|process| process.info()).collect() }
}

/// How long a killed process may take to be gone before its caller is told anyway.
const GONE: Duration = Duration::from_millis(500);

async fn send_signal(daemon: &Daemon, question: &SendSignalRequest) -> Result<Empty, ConnectError> {
    let process = daemon.processes.find_running(&question.process)?;
    let signal = match question.signal {
        Signal::Sigterm => rustix::process::Signal::TERM,
        Signal::Sigkill => rustix::process::Signal::KILL,
        Signal::Unspecified => {
            return Err(ConnectError::new(
                Code::Unimplemented,
                "signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL",
            ));
        }
    };
    // Watched before the signal, so that an end in between is not missed.
    let retired = process.retired.notified();
    process.signal(signal);
    if signal == rustix::process::Signal::KILL {
        // Who asks for the list next shall not find it there. One stuck in the kernel is told all the same.
        tokio::time::timeout(GONE, retired).await.ok();
    }
    Ok(Empty {})
}

fn update(daemon: &Daemon, question: &UpdateRequest) -> Result<Empty, ConnectError> {
    let process = daemon.processes.find_running(&question.process)?;
    if let Some(size) = question.pty.and_then(|pty| pty.size) {
        process.resize(size)?;
    }
    Ok(Empty {})
}

async fn stream_input(
    daemon: &Daemon,
    mut messages: Messages<StreamInputRequest>,
) -> Result<Empty, ConnectError> {
    let mut process: Option<Arc<Process>> = None;
    while let Some(message) = messages.next().await? {
        if let Some(start) = message.start {
            process = Some(daemon.processes.find_running(&start.process)?);
        } else if let Some(data) = message.data {
            let process = process.as_ref().ok_or_else(|| invalid("the first message must be a start"))?;
            process.write(data.input).await?;
        } else if message.keepalive.is_none() {
            return Err(ConnectError::new(Code::Unimplemented, "a message must be start, data or keepalive"));
        }
    }
    Ok(Empty {})
}

async fn start(daemon: &Arc<Daemon>, request: Request) -> Response {
    let headers = request.headers().clone();
    rpc::server_stream(&daemon.buffers, request, async |question: StartRequest| {
        let account = daemon.caller(&headers)?;
        let limit = rpc::time_limit(&headers)?;
        let (process, reader) = launch(daemon, question, &account, limit)?;
        Ok(events(process, reader, rpc::keepalive(&headers)))
    })
    .await
}

async fn connect(daemon: &Arc<Daemon>, request: Request) -> Response {
    let silence = rpc::keepalive(request.headers());
    rpc::server_stream(&daemon.buffers, request, async |question: ConnectRequest| {
        let process = daemon.processes.find_kept(&question.process)?;
        let reader = Arc::clone(&process.hub).read(question.replay);
        Ok(events(process, reader, silence))
    })
    .await
}

/// The messages of a stream about one process: its start, its output, its end, and signs of life between.
fn events(
    process: Arc<Process>,
    mut reader: Subscription,
    silence: Duration,
) -> impl Stream<Item = Result<StartResponse, ConnectError>> {
    async_stream::stream! {
        yield Ok(StartResponse::started(process.pid));
        let mut idle = interval(silence);
        idle.reset();
        loop {
            let next = tokio::select! {
                biased;
                next = reader.next() => next,
                _ = idle.tick() => {
                    yield Ok(StartResponse::keepalive());
                    continue;
                }
            };
            match next {
                Next::Data(data) => {
                    yield Ok(StartResponse::data(data));
                    idle.reset();
                }
                Next::End(end) => {
                    yield Ok(StartResponse::ended(end));
                    return;
                }
                Next::CutOff => {
                    let message = "output was not read for too long; connect again to go on";
                    yield Err(ConnectError::new(Code::ResourceExhausted, message));
                    return;
                }
            }
        }
    }
}

/// Where a process starts.
///
/// # Errors
/// [`Code::InvalidArgument`] when the directory is not there.
pub fn working_directory(
    daemon: &Daemon,
    config: &ProcessConfig,
    account: &Account,
) -> Result<PathBuf, ConnectError> {
    let directory = config.cwd.as_deref().unwrap_or_default();
    let directory = paths::resolve(directory, account, daemon.default_workdir().as_deref())
        .map_err(|error| invalid(error.to_string()))?;
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(directory),
        Ok(_) => Err(invalid(format!("cwd '{}' is not a directory", directory.display()))),
        Err(_) => Err(invalid(format!("cwd '{}' does not exist", directory.display()))),
    }
}

/// The error of a process that could not be started. Want of something is told apart, since it may pass.
pub fn start_error(program: &str, error: &io::Error) -> ConnectError {
    let passing = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::ENOSPC];
    let code = match error.raw_os_error() {
        Some(number) if passing.contains(&number) => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    };
    ConnectError::new(code, format!("error starting process '{program}': {error}"))
}

/// Starts a process and everything that looks after it. Runs without a pause from the fork to the registration
/// in all tables, so that nobody can see a process half-made.
fn launch(
    daemon: &Arc<Daemon>,
    question: StartRequest,
    account: &Account,
    limit: Option<Duration>,
) -> Result<(Arc<Process>, Subscription), ConnectError> {
    let config = question.process;
    if config.cmd.is_empty() {
        return Err(invalid("process.cmd must name a program"));
    }
    if question.tag.as_deref() == Some(RESERVED_TAG) {
        return Err(invalid(format!("the tag {RESERVED_TAG} is reserved")));
    }
    let directory = working_directory(daemon, &config, account)?;
    let streams = match question.pty {
        Some(pty) => Streams::Terminal(pty.size.unwrap_or_default()),
        None => Streams::Pipes { stdin: question.stdin.unwrap_or(true) },
    };
    let plan = Plan {
        program: &config.cmd,
        arguments: &config.args,
        environment: &daemon.environment(account, &config.envs),
        directory: &directory,
        account,
        streams,
    };
    let started = spawn::start(&daemon.reaper, &plan).map_err(|error| start_error(&config.cmd, &error))?;

    let hub = Arc::new(Hub::new(Arc::clone(&daemon.processes.output)));
    let mut pumps = Pumps::default();
    let pipes = |error: io::Error| rpc::internal(format!("connecting the process's streams: {error}"));
    let input = match started.ends {
        Ends::Terminal(terminal) => {
            pumps.terminal(terminal.clone(), &hub);
            Input::Terminal(terminal, tokio::sync::Mutex::default())
        }
        Ends::Pipes { stdin, stdout, stderr } => {
            pumps.pipe(pipe::Receiver::from_owned_fd(stdout).map_err(pipes)?, hub::Source::Stdout, &hub);
            pumps.pipe(pipe::Receiver::from_owned_fd(stderr).map_err(pipes)?, hub::Source::Stderr, &hub);
            let stdin = stdin.map(pipe::Sender::from_owned_fd).transpose().map_err(pipes)?;
            Input::Pipe(tokio::sync::Mutex::new(stdin))
        }
    };
    let process = Arc::new(Process {
        config,
        tag: question.tag,
        pid: started.pid,
        hub,
        input,
        running: AtomicBool::new(true),
        retired: tokio::sync::Notify::new(),
    });
    daemon.processes.add(Arc::clone(&process));
    let reader = Arc::clone(&process.hub).read(false);
    log::info("process started", json!({"pid": process.pid, "program": process.config.cmd}));
    tokio::spawn(look_after(Arc::clone(daemon), Arc::clone(&process), started.ended, pumps, limit));
    Ok((process, reader))
}

/// Waits for the end of a process, kills it when its time is over, and files it away.
async fn look_after(
    daemon: Arc<Daemon>,
    process: Arc<Process>,
    mut ended: tokio::sync::oneshot::Receiver<crate::reaper::Ended>,
    pumps: Pumps,
    limit: Option<Duration>,
) {
    let ended = match limit {
        None => ended.await,
        Some(limit) => tokio::select! {
            ended = &mut ended => ended,
            () = sleep(limit) => {
                process.signal(rustix::process::Signal::KILL);
                ended.await
            }
        },
    };
    process.running.store(false, Ordering::Release);
    pumps.drain(&process.hub).await;
    let end = match ended {
        Ok(ended) => status::end_event(ended),
        // The reaper is gone only when the whole daemon is.
        Err(_) => status::unknown(),
    };
    log::info("process ended", json!({"pid": process.pid, "status": end.status}));
    process.hub.finish(end);
    daemon.processes.retire(&process);
    process.retired.notify_waiters();
    // Last, for it may wait: a writer holds the lock as long as something left behind does not read.
    process.close_stdin().await.ok();
}
