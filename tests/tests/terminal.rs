//! The interactive terminal over a WebSocket, with real shells in a real VM.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use pvm_tests::api::Api;
use pvm_tests::stack::with_stack;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A client of a terminal, with everything that it got so far.
struct Terminal {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    seen: String,
    id: String,
}

/// Connects to a path; the status of the answer where that is refused.
async fn connect(api: &Api, path: &str) -> Result<Terminal, u16> {
    let url = format!("{}{path}", api.url.replacen("http", "ws", 1));
    let mut request = url.into_client_request().unwrap();
    if !api.key.is_empty() {
        request.headers_mut().insert("authorization", format!("Bearer {}", api.key).parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => {
            let mut terminal = Terminal { socket, seen: String::new(), id: String::new() };
            let ready = terminal.told().await;
            assert_eq!(ready["type"], "ready", "{ready}");
            terminal.id = ready["terminal_id"].as_str().unwrap().into();
            Ok(terminal)
        }
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

impl Terminal {
    /// The next thing that is told about the terminal itself; output before it is kept.
    async fn told(&mut self) -> Value {
        loop {
            match self.socket.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Binary(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Close(frame) => panic!("closed: {frame:?}; there was {:?}", self.seen),
                _ => {}
            }
        }
    }

    /// Reads until the output has `text`.
    async fn until(&mut self, text: &str) {
        // A bound for a hang, not a timing. Over all of it: the server's pings come as long as it lives.
        let patience = tokio::time::Instant::now() + Duration::from_mins(2);
        while !self.seen.contains(text) {
            let next = tokio::time::timeout_at(patience, self.socket.next()).await;
            let Ok(next) = next else { panic!("waited for {text:?} in {:?}", self.seen) };
            match next.unwrap().unwrap() {
                Message::Binary(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other}; waited for {text:?} in {:?}", self.seen),
            }
        }
    }

    async fn say(&mut self, value: Value) {
        self.socket.send(Message::text(value.to_string())).await.unwrap();
    }

    async fn line(&mut self, line: &str) {
        self.socket.send(Message::binary(format!("{line}\n").into_bytes())).await.unwrap();
    }
}

async fn a_shell(api: &Api) {
    let project = api.project("terminal").await;
    let path = format!("{project}/vm/terminal");
    let mut one = connect(api, &format!("{path}?cols=100&rows=30")).await.unwrap();
    one.line("stty size; pwd; id -un; [ -t 0 ] && echo is-a-$((1+0))-tty").await;
    one.until("30 100").await;
    one.until("/workspace").await;
    one.until("is-a-1-tty").await;
    one.say(json!({"type": "resize", "cols": 120, "rows": 40})).await;
    one.say(json!({"type": "input", "data": "stty size; KEPT=still; echo $((6*7))\n"})).await;
    one.until("40 120").await;
    one.until("\n42").await;

    // A second viewer sees the same terminal; both see what either types.
    let again = format!("{path}?cols=120&rows=40&terminal_id={}", one.id);
    let mut two = connect(api, &again).await.unwrap();
    assert_eq!(two.id, one.id);
    two.until("\n42").await;
    two.line("echo from-$((1+1))").await;
    one.until("from-2").await;
    two.until("from-2").await;

    // Both leave; the shell and what it knows stay. What nobody saw comes first.
    one.line("sleep 0.2; echo nobody-$((1+2))").await;
    one.socket.close(None).await.unwrap();
    two.socket.close(None).await.unwrap();
    let mut three = connect(api, &again).await.unwrap();
    three.until("nobody-3").await;
    three.line("echo \"<$KEPT>\"").await;
    three.until("<still>").await;
    three.line("exit 3").await;
    assert_eq!(three.told().await, json!({"type": "exit", "exit_code": 3}));

    // Ctrl-C ends what runs in the foreground and not the shell; `end` ends the shell.
    let mut four = connect(api, &format!("{path}?user=root&working_dir=%2Ftmp")).await.unwrap();
    assert_ne!(four.id, one.id);
    // The child says that it is in the foreground before it sleeps: Ctrl-C at an idle prompt would end nothing.
    four.line("id -un; pwd; bash -c 'echo asleep-$((2+3)); exec sleep 1000'").await;
    four.until("/tmp").await;
    four.until("asleep-5").await;
    four.say(json!({"type": "input", "data": "\u{3}"})).await;
    four.line("echo after-$((2+2))").await;
    four.until("after-4").await;
    four.say(json!({"type": "end"})).await;
    assert_eq!(four.told().await["type"], "exit");
}

async fn the_door(api: &Api) {
    let project = api.project("door").await;
    let path = format!("{project}/vm/terminal");
    let refused = async |api: &Api, path: &str| connect(api, path).await.err();
    assert_eq!(refused(&api.with_key(""), &path).await, Some(401));
    assert_eq!(refused(&api.with_key("pvm_wrong"), &path).await, Some(401));
    // Who may only look may not type.
    let made = api.post("/api/keys", json!({"name": "reader", "scope": "read"})).await.expect(201);
    let reader = api.with_key(made["api_key"].as_str().unwrap());
    assert_eq!(refused(&reader, &path).await, Some(403));
    let tickets = format!("{project}/stream-ticket");
    reader.post(&tickets, json!({"path": path})).await.problem(403, "forbidden");
    let other = "/api/projects/prj_00000000000000000000000000/vm/terminal";
    assert_eq!(refused(api, other).await, Some(404));
    assert_eq!(refused(api, &format!("{path}?cols=0")).await, Some(422));
    assert_eq!(refused(api, &format!("{path}?terminal_id=term_x")).await, Some(404));
    let unknown = format!("{path}?terminal_id=term_00000000000000000000000000");
    assert_eq!(refused(api, &unknown).await, Some(404));
    let plain = api.get(&path).await.problem(400, "bad_request");
    assert!(plain["detail"].as_str().unwrap().contains("WebSocket"), "{plain}");

    // A browser has no header to send: a ticket for this very path opens it, one for another does not.
    let nobody = api.with_key("");
    let ticket = api.post(&tickets, json!({"path": path})).await.expect(200);
    let mut terminal = connect(&nobody, ticket["url"].as_str().unwrap()).await.unwrap();
    terminal.line("echo by-$((3+4))").await;
    terminal.until("by-7").await;
    terminal.say(json!({"type": "dance"})).await;
    loop {
        match terminal.socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => break assert!(frame.unwrap().reason.contains("not understood")),
            Message::Binary(_) | Message::Ping(_) => {}
            other => panic!("{other}"),
        }
    }
    let events = api.post(&tickets, json!({"path": format!("{project}/events")})).await.expect(200);
    let wrong = format!("{path}?ticket={}", events["ticket"].as_str().unwrap());
    assert_eq!(refused(&nobody, &wrong).await, Some(401));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_resized_shared_left_and_found_again() {
    with_stack(async |api: Api| a_shell(&api).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_opens_to_those_who_may_write_and_to_tickets() {
    with_stack(async |api: Api| the_door(&api).await).await;
}
