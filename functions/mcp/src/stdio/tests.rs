use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[test]
fn headers_carry_any_name() {
    assert_eq!(header_text("read_file"), "read_file");
    assert_eq!(header_text("é"), "=?base64?w6k=?=");
    assert_eq!(header_text(" x"), "=?base64?IHg=?=");
    assert!(header_text("=?base64?x?=").starts_with("=?base64?PT9i"));
}

fn shared() -> Shared {
    let (out, _) = mpsc::channel(1);
    Shared {
        endpoint: Endpoint::new("http://127.0.0.1:1/", "key", "prj_x").unwrap(),
        out,
        agreed: Mutex::new(Some("2025-11-25".to_owned())),
        under_way: Mutex::default(),
        nonce: 7,
    }
}

#[test]
fn the_headers_of_each_era_come_from_the_message() {
    let shared = shared();
    let old = shared.headers(&json!({"id": 1, "method": "tools/call", "params": {"name": "x"}}));
    assert_eq!(old["mcp-protocol-version"], "2025-11-25");
    assert!(old.get("mcp-method").is_none());
    assert!(old["idempotency-key"].to_str().unwrap().starts_with(&format!("{:032x}-", 7)));
    let cancelled = json!({"method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(shared.headers(&cancelled)["idempotency-key"], old["idempotency-key"]);
    let new = json!({"id": 2, "method": "resources/read",
                     "params": {"uri": "pvm://status", "_meta": {VERSION_META: "2026-07-28"}}});
    let new = shared.headers(&new);
    assert_eq!(new["mcp-protocol-version"], "2026-07-28");
    assert_eq!(new["mcp-method"], "resources/read");
    assert_eq!(new["mcp-name"], "pvm://status");
    assert_eq!(shared.endpoint.url, "http://127.0.0.1:1/api/projects/prj_x/mcp");
}

#[test]
fn every_id_makes_a_key_of_its_own() {
    let shared = shared();
    let long = "x".repeat(64);
    let ids = [
        json!(1),
        json!("1"),
        json!("a-1"),
        json!("a1"),
        json!("é"),
        json!("è"),
        json!(long),
        json!(long + "y"),
    ];
    let keys: std::collections::BTreeSet<String> =
        ids.iter().map(|id| shared.key_of(&id.to_string())).collect();
    assert_eq!(keys.len(), ids.len());
    assert!(keys.iter().all(|key| key.len() < 100), "{keys:?}");
}

#[test]
fn a_bad_address_is_refused_before_the_first_request() {
    assert!(Endpoint::new("not a url", "key", "prj_x").is_err());
    assert!(Endpoint::new("http://h", "bad\nkey", "prj_x").is_err());
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_on_the_line_of_its_id() {
    let endpoint = Endpoint::new("http://127.0.0.1:1", "key", "prj_x").unwrap();
    let input = b"nonsense\n{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"tools/list\"}\n\n".as_slice();
    let (mine, theirs) = tokio::io::duplex(65536);
    run(endpoint, input, theirs).await.unwrap();
    let mut lines = BufReader::new(mine).lines();
    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first["error"]["code"], -32700);
    let second: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(second["id"], "a");
    assert!(second["error"]["message"].as_str().unwrap().contains("cannot be reached"), "{second}");
}

/// A server of raw answers, which keeps what it was asked.
struct Server {
    endpoint: Endpoint,
    /// Head and body of each request.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// What the server does with one request.
enum Do {
    /// It answers with this status, type and body.
    Answer(u16, &'static str, String),
    /// It sends this much of an event stream and cuts the connection.
    Break(&'static str),
    /// It never answers.
    Hang,
}

const JSON: &str = "application/json";
const STREAM: &str = "text/event-stream";

impl Server {
    async fn start(answers: impl IntoIterator<Item = Do>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut answers) = (Arc::clone(&asked), answers.into_iter().collect::<VecDeque<Do>>());
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let request = Self::read(&mut socket).await;
                seen.lock().unwrap().push(request);
                match answers.pop_front() {
                    Some(Do::Answer(status, kind, body)) => {
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                            body.len()
                        );
                        socket.write_all((head + &body).as_bytes()).await.unwrap();
                    }
                    Some(Do::Break(part)) => {
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n";
                        socket.write_all((head.to_owned() + part).as_bytes()).await.unwrap();
                    }
                    Some(Do::Hang) | None => held.push(socket),
                }
            }
        });
        Self { endpoint: Endpoint::new(&url, "key", "prj_x").unwrap(), asked }
    }

    async fn read(socket: &mut TcpStream) -> (String, Value) {
        let mut input = BufReader::new(socket);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            input.read_line(&mut line).await.unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(count) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = count.trim().parse().unwrap();
            }
            head.push_str(&line.to_ascii_lowercase());
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).await.unwrap();
        (head, serde_json::from_slice(&body).unwrap())
    }

    /// Everything that the bridge answers to these lines.
    async fn bridge(&self, lines: &str) -> Vec<Value> {
        let (mine, theirs) = tokio::io::duplex(1024 * 1024);
        let input = lines.as_bytes();
        run(self.endpoint.clone(), input, theirs).await.unwrap();
        let mut out = BufReader::new(mine).lines();
        let mut answers = Vec::new();
        while let Some(line) = out.next_line().await.unwrap() {
            answers.push(serde_json::from_str(&line).unwrap());
        }
        answers
    }
}

fn answer(id: u32) -> String {
    json!({"jsonrpc": "2.0", "id": id, "result": {"protocolVersion": "2025-11-25"}}).to_string()
}

#[tokio::test]
async fn a_line_that_is_too_long_is_answered_and_the_next_one_is_served() {
    let server = Server::start([Do::Answer(200, JSON, answer(2))]).await;
    let long = json!({"method": "tools/call", "params": {"content": "x".repeat(7 * 1024 * 1024)}, "jsonrpc": "2.0", "id": 1});
    let answers =
        server.bridge(&format!("{long}\n{}\n", json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}))).await;
    assert_eq!((&answers[0]["id"], &answers[0]["error"]["code"]), (&json!(1), &json!(-32600)), "{answers:?}");
    assert!(answers[0]["error"]["message"].as_str().unwrap().contains("append"), "{answers:?}");
    assert_eq!(answers[1]["id"], 2);
}

#[tokio::test]
async fn a_gateway_that_fails_for_a_moment_is_asked_again_with_the_same_key() {
    let down = |status| Do::Answer(status, "text/plain", "down".to_owned());
    let server = Server::start([down(502), down(504), Do::Answer(200, JSON, answer(1))]).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}});
    let answers = server.bridge(&format!("{call}\n")).await;
    assert_eq!((answers.len(), &answers[0]["id"]), (1, &json!(1)), "{answers:?}");
    let asked = server.asked.lock().unwrap().clone();
    let keys: std::collections::BTreeSet<&str> = asked
        .iter()
        .map(|(head, _)| head.lines().find(|line| line.starts_with("idempotency-key")).unwrap())
        .collect();
    assert_eq!((asked.len(), keys.len()), (3, 1));

    let server = Server::start([down(503), down(503), down(503)]).await;
    let answers = server.bridge(&format!("{call}\n")).await;
    assert!(answers[0]["error"]["message"].as_str().unwrap().contains("503"), "{answers:?}");
}

#[tokio::test]
async fn a_stream_passes_on_what_it_brought_and_says_when_its_answer_is_missing() {
    let note = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
    let call = format!("{}\n", json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {}}));
    let whole = format!("{note}data: {{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{{}}}}\n\n");
    let answers = Server::start([Do::Answer(200, STREAM, whole)]).await.bridge(&call).await;
    assert_eq!((answers.len(), &answers[1]["result"]), (2, &json!({})), "{answers:?}");
    for broken in [Do::Break(note), Do::Answer(200, STREAM, note.to_owned())] {
        let answers = Server::start([broken]).await.bridge(&call).await;
        assert_eq!(answers[0]["method"], "notifications/progress");
        assert_eq!(answers[1]["id"], 5);
        assert!(answers[1]["error"]["message"].as_str().unwrap().contains("broke off"), "{answers:?}");
    }
}

#[tokio::test]
async fn what_a_client_takes_back_ends_here_and_is_told_with_the_calls_key() {
    let server =
        Server::start([Do::Answer(200, JSON, answer(0)), Do::Hang, Do::Answer(202, JSON, String::new())])
            .await;
    let lines = [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize"}),
        json!({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {"name": "x"}}),
    ];
    let (mut mine, theirs) = tokio::io::duplex(65536);
    let (answers, out) = tokio::io::duplex(65536);
    let bridged = tokio::spawn(run(server.endpoint.clone(), BufReader::new(theirs), out));
    for line in lines {
        mine.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
    while server.asked.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}});
    mine.write_all(format!("{cancelled}\n").as_bytes()).await.unwrap();
    drop(mine);
    bridged.await.unwrap().unwrap();
    let asked = server.asked.lock().unwrap().clone();
    let key = |at: usize| asked[at].0.lines().find(|line| line.starts_with("idempotency-key")).unwrap();
    assert_eq!((asked.len(), &asked[2].1, key(1)), (3, &cancelled, key(2)));
    assert!(asked[2].0.contains("mcp-protocol-version: 2025-11-25"), "{}", asked[2].0);
    let mut lines = BufReader::new(answers).lines();
    assert!(lines.next_line().await.unwrap().unwrap().contains("protocolVersion"));
    assert_eq!(lines.next_line().await.unwrap(), None, "a call that was taken back has no answer");
}

#[tokio::test]
async fn the_stateless_era_needs_no_handshake() {
    let server = Server::start([Do::Answer(200, JSON, answer(1))]).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                      "params": {"name": "read_file", "_meta": {VERSION_META: "2026-07-28"}}});
    server.bridge(&format!("{call}\n")).await;
    let asked = server.asked.lock().unwrap().clone();
    for header in ["mcp-protocol-version: 2026-07-28", "mcp-method: tools/call", "mcp-name: read_file"] {
        assert!(asked[0].0.contains(header), "{}", asked[0].0);
    }
}
