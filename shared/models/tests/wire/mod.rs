//! A server on a real socket, and the call that the tests make of it.

use std::sync::{Arc, Mutex};

use pvm_application::ports_model::{
    Block, CallModel, CallPlace, ModelAnswer, ModelError, ModelMessage, ModelRequest, ModelTool, Role,
};
use pvm_domain::ids::{ConversationId, PrefixedId, RunId};
use pvm_models::Models;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A server that answers each request with the next of its answers, byte for byte, in small pieces.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    pub(crate) async fn new<B: AsRef<[u8]> + Send + 'static>(answers: Vec<B>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let request = read_request(&mut socket).await;
                seen.lock().unwrap().push(request);
                for piece in answer.as_ref().chunks(17) {
                    if socket.write_all(piece).await.is_err() {
                        break;
                    }
                    socket.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        Self { url, requests }
    }

    pub(crate) fn request(&self, at: usize) -> (String, Value) {
        self.requests.lock().unwrap()[at].clone()
    }
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap_or(0) {
            return (head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null));
        }
    }
}

pub(crate) fn request(model: &str) -> ModelRequest {
    let text = |text: &str| Block::Text { text: text.to_owned() };
    let user = |blocks| ModelMessage { role: Role::User, blocks };
    let used =
        Block::ToolUse { id: "call 1".to_owned(), name: "look".to_owned(), arguments: json!({"what": "a"}) };
    let result = Block::ToolResult { id: "call 1".to_owned(), text: "seen".to_owned(), is_error: true };
    let thought = Block::Opaque {
        provider: "anthropic".to_owned(),
        value: json!({"type": "thinking", "thinking": "hm", "signature": "s"}),
    };
    ModelRequest {
        model: model.to_owned(),
        system: "You help.".to_owned(),
        messages: vec![
            user(vec![text("[user] Go")]),
            ModelMessage { role: Role::Assistant, blocks: vec![thought, text("Looking."), used] },
            user(vec![result, text("[system] State")]),
        ],
        tools: vec![ModelTool {
            name: "look".to_owned(),
            description: "Looks.".to_owned(),
            input_schema: json!({"type": "object", "properties": {"what": {"type": "string"}}}),
        }],
        temperature: Some(0.5),
        max_tokens: 500,
        place: CallPlace {
            conversation_id: ConversationId::from_parts(1, 1),
            run_id: RunId::from_parts(1, 1),
            agent_id: "dev_agent".to_owned(),
            initial_message: "Go".to_owned(),
            turn: 0,
            agent_step: 1,
        },
    }
}

pub(crate) async fn call(models: &Models, model: &str) -> (Result<ModelAnswer, ModelError>, String) {
    let (sender, mut pieces) = mpsc::channel(1000);
    let answer = models.call(&request(model), sender).await;
    let mut text = String::new();
    while let Ok(piece) = pieces.try_recv() {
        text.push_str(&piece);
    }
    (answer, text)
}
