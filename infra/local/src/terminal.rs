//! `GET /api/projects/{project_id}/vm/terminal`: an interactive terminal over a WebSocket.
//!
//! It is not in the table of routes, because nothing behind API Gateway could serve it: a WebSocket API there calls a
//! function for each message and has none that stays. In AWS terminals are E2B's own (see docs/operations.md).
//!
//! From the client: binary messages are typed as they are; text messages are JSON, `{"type": "input", "data": "ls\n"}`,
//! `{"type": "resize", "cols": 120, "rows": 40}` or `{"type": "end"}`, which ends the shell. To the client: first
//! `{"type": "ready", "terminal_id": "term_..."}`, then output as binary messages, at last
//! `{"type": "exit", "exit_code": 0}`. A client that leaves does not end the shell: with `?terminal_id=` it comes back
//! and gets what was kept of the output (2 MiB) first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::ports::{TerminalEvent, TerminalSize, VmError};
use pvm_application::vm::terminal::{self, OpenTerminal, Opened};
use pvm_domain::ids::ProjectId;
use pvm_entry::{Reply, reply, ticket};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::App;
use crate::front::Front;

/// A terminal of this size unless the client says otherwise.
const SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };
/// The largest side of a terminal.
const SIDE_MOST: u16 = 1_000;
/// The longest message of a client: a large paste.
const MESSAGE_MOST: usize = 1024 * 1024;
/// While somebody watches, the VM is kept awake this often; the client is pinged as often.
const AWAKE: Duration = Duration::from_secs(30);

/// What a client may say.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Said {
    Input { data: String },
    Resize { cols: u16, rows: u16 },
    End,
}

/// The project whose terminal a path is.
pub fn project_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/api/projects/")?;
    let project = rest.strip_suffix('/').unwrap_or(rest).strip_suffix("/vm/terminal")?;
    (!project.is_empty() && !project.contains('/')).then_some(project)
}

/// Answers a request for a terminal. The terminal runs on in `tasks` until its client leaves or `stop`.
pub async fn serve(
    front: &Arc<Front>,
    request: Request<Incoming>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Reply {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let head = Request::from_parts(parts, ());
    let handling = async {
        let principal = front.authenticate(&head).await?;
        let accept = handshake(&head)?;
        let project_id: ProjectId = project_of(head.uri().path())
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| AppError::not_found("project"))?;
        let wanted = asked(head.uri().query().unwrap_or_default())?;
        let app = Arc::clone(front.app());
        let opened =
            terminal::open(&app.store, &app.workflow, &app.vm, &app.ambient, &principal, &project_id, wanted)
                .await?;
        let upgrade = upgrade.ok_or_else(no_websocket)?;
        let stop = stop.clone();
        tasks.spawn(async move {
            match upgrade.await {
                Ok(connection) => attend(&app, &project_id, opened, connection, stop).await,
                Err(error) => tracing::debug!(%error, "a terminal's client left before the upgrade"),
            }
        });
        let mut switched = reply::no_content();
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let switched = reply::with_header(switched, UPGRADE, "websocket");
        let switched = reply::with_header(switched, CONNECTION, "Upgrade");
        Ok(reply::with_header(switched, SEC_WEBSOCKET_ACCEPT, &accept))
    };
    let answer = front.answer("terminal", &head, handling).await;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A body that nobody reads would be taken for the next request.
        drop(body.collect().await);
    }
    answer
}

fn no_websocket() -> AppError {
    let detail = "A terminal is a WebSocket (version 13): connect with a WebSocket client.";
    AppError::new(ErrorCode::BadRequest, detail)
}

/// What the answer's `Sec-WebSocket-Accept` says.
fn handshake<B>(request: &Request<B>) -> AppResult<String> {
    let headers = request.headers();
    let names = |name: hyper::header::HeaderName, wanted: &str| listed(headers, &name, wanted);
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let upgrades = names(UPGRADE, "websocket") && names(CONNECTION, "upgrade");
    match headers.get(SEC_WEBSOCKET_KEY) {
        Some(key) if *request.method() == Method::GET && upgrades && version => {
            Ok(derive_accept_key(key.as_bytes()))
        }
        _ => Err(no_websocket()),
    }
}

fn listed(headers: &HeaderMap, name: &hyper::header::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(wanted))
}

fn asked(query: &str) -> AppResult<OpenTerminal> {
    let mut wanted =
        OpenTerminal { terminal_id: None, size: SIZE, user: "user".to_owned(), working_dir: String::new() };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "terminal_id" => wanted.terminal_id = Some(value.into_owned()),
            "cols" => wanted.size.cols = side("cols", value.parse().ok())?,
            "rows" => wanted.size.rows = side("rows", value.parse().ok())?,
            "user" => wanted.user = value.into_owned(),
            "working_dir" => wanted.working_dir = value.into_owned(),
            ticket::PARAMETER => {}
            other => {
                let known = "is not a parameter; known are terminal_id, cols, rows, user and working_dir";
                return Err(AppError::invalid(other, known));
            }
        }
    }
    Ok(wanted)
}

fn side(name: &str, value: Option<u16>) -> AppResult<u16> {
    let fits = |side: &u16| (1..=SIDE_MOST).contains(side);
    value.filter(fits).ok_or_else(|| AppError::invalid(name, format!("must be 1 to {SIDE_MOST}")))
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why a terminal is left.
enum Left {
    /// Its shell has ended.
    Over(i32),
    /// The client is gone.
    Client,
    /// With this reason for the client.
    Because(CloseCode, String),
}

async fn attend(
    app: &App,
    project_id: &ProjectId,
    opened: Opened,
    connection: Upgraded,
    stop: CancellationToken,
) {
    let limits =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MOST)).max_frame_size(Some(MESSAGE_MOST));
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, Some(limits)).await;
    let left = talk(app, project_id, opened, &mut socket, &stop).await;
    let (code, reason) = match left {
        Left::Over(exit_code) => {
            let told = json!({"type": "exit", "exit_code": exit_code}).to_string();
            // A client that is gone by now misses nothing.
            drop(socket.send(Message::text(told)).await);
            (CloseCode::Normal, String::new())
        }
        Left::Client => return,
        Left::Because(code, reason) => (code, reason),
    };
    // 123 bytes of reason fit into a close frame.
    let reason: String = reason.chars().filter(char::is_ascii).take(120).collect();
    drop(socket.close(Some(CloseFrame { code, reason: Utf8Bytes::from(reason) })).await);
}

async fn talk(
    app: &App,
    project_id: &ProjectId,
    opened: Opened,
    socket: &mut Socket,
    stop: &CancellationToken,
) -> Left {
    let Opened { terminal_id, vm_id, mut stream } = opened;
    let at = (vm_id.as_str(), terminal_id.as_str());
    let ready = json!({"type": "ready", "terminal_id": terminal_id}).to_string();
    if socket.send(Message::text(ready)).await.is_err() {
        return Left::Client;
    }
    let mut awake = tokio::time::interval(AWAKE);
    awake.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                return Left::Because(CloseCode::Away, "The server is ending; come back with terminal_id.".into());
            }
            event = stream.next() => match event {
                Some(Ok(TerminalEvent::Output(bytes))) => {
                    if socket.send(Message::Binary(bytes)).await.is_err() {
                        return Left::Client;
                    }
                }
                Some(Ok(TerminalEvent::Exit { exit_code })) => return Left::Over(exit_code),
                Some(Err(error)) => return Left::Because(CloseCode::Again, lost(&error)),
                None => return Left::Because(CloseCode::Again, "The terminal's stream has ended.".into()),
            },
            message = socket.next() => match message {
                Some(Ok(message)) => match said(app, at, message).await {
                    Ok(true) => {}
                    Ok(false) => return Left::Client,
                    Err(left) => return left,
                },
                Some(Err(_)) | None => return Left::Client,
            },
            _ = awake.tick() => {
                let kept = terminal::keep_awake(&app.store, &app.workflow, &app.vm, &app.ambient, project_id);
                if let Err(error) = kept.await {
                    tracing::debug!(%error, "could not keep a terminal's VM awake");
                }
                if socket.send(Message::Ping(Bytes::new())).await.is_err() {
                    return Left::Client;
                }
            }
        }
    }
}

fn lost(error: &VmError) -> String {
    format!("The terminal was lost: {error}.")
}

/// Does what the client says; false where it leaves.
async fn said(app: &App, at: (&str, &str), message: Message) -> Result<bool, Left> {
    let done = match message {
        Message::Binary(bytes) => terminal::type_into(&app.vm, at, bytes).await,
        Message::Text(text) => match serde_json::from_str::<Said>(&text) {
            Ok(Said::Input { data }) => terminal::type_into(&app.vm, at, Bytes::from(data)).await,
            Ok(Said::Resize { cols, rows }) => {
                let (Ok(cols), Ok(rows)) = (side("cols", Some(cols)), side("rows", Some(rows))) else {
                    let reason = format!("cols and rows must be 1 to {SIDE_MOST}");
                    return Err(Left::Because(CloseCode::Unsupported, reason));
                };
                terminal::resize(&app.vm, at, TerminalSize { cols, rows }).await
            }
            Ok(Said::End) => terminal::end(&app.vm, at).await,
            Err(error) => {
                return Err(Left::Because(CloseCode::Unsupported, format!("not understood: {error}")));
            }
        },
        Message::Close(_) => return Ok(false),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
    };
    match done {
        Ok(()) => Ok(true),
        Err(error) => Err(Left::Because(CloseCode::Again, lost(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_terminals_path_is_one() {
        assert_eq!(project_of("/api/projects/prj_1/vm/terminal"), Some("prj_1"));
        assert_eq!(project_of("/api/projects/prj_1/vm/terminal/"), Some("prj_1"));
        for other in
            ["/api/projects//vm/terminal", "/api/projects/a/b/vm/terminal", "/api/projects/a/vm/command"]
        {
            assert_eq!(project_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_terminals_parameters_are_checked() {
        let wanted = asked("cols=120&rows=40&user=root&working_dir=%2Ftmp&ticket=x").unwrap();
        assert_eq!((wanted.size, wanted.user.as_str()), (TerminalSize { cols: 120, rows: 40 }, "root"));
        assert_eq!(wanted.working_dir, "/tmp");
        for (query, field) in
            [("cols=0", "cols"), ("rows=1001", "rows"), ("rows=x", "rows"), ("colour=red", "colour")]
        {
            assert_eq!(asked(query).unwrap_err().field.as_deref(), Some(field), "{query}");
        }
    }

    #[test]
    fn a_plain_request_is_told_to_be_a_websocket() {
        let plain = Request::builder().uri("/").body(()).unwrap();
        assert_eq!(handshake(&plain).unwrap_err().code, ErrorCode::BadRequest);
        let upgrade = Request::builder()
            .uri("/")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        assert_eq!(handshake(&upgrade).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
