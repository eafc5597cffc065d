//! A line to the server that keeps what was sent over it: the server's own journal has requests of some providers only in
//! another provider's words.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request: its first line and its body.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

type Log = Arc<Mutex<Vec<Sent>>>;

/// The line.
pub(crate) struct Tee {
    pub(crate) address: SocketAddr,
    log: Log,
}

impl Tee {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(to).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&kept)));
            }
        });
        Self { address, log }
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.log.lock().unwrap().clone()
    }
}

async fn carry(client: TcpStream, server: TcpStream, log: Log) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let mut events = Events::default();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if to_client.write_all(&events.pass(&buffer[..count])).await.is_err() {
                break;
            }
        }
    });
    let mut open = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from_client.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        open.extend_from_slice(&buffer[..count]);
        // Kept before it is carried on: an answer is never there before its request.
        while let Some((sent, length)) = whole(&open) {
            open.drain(..length);
            log.lock().unwrap().push(sent);
        }
        if to_server.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    drop(to_server);
    drop(back.await);
}

/// The first request, where all of it is there, with its length.
fn whole(bytes: &[u8]) -> Option<(Sent, usize)> {
    let head_length = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_length]).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let end = head_length + length.expect("a request has a length");
    let path = head.split(' ').nth(1)?.to_owned();
    (bytes.len() >= end).then(|| (Sent { path, body: bytes[head_length..end].to_vec() }, end))
}

/// Answers on their way back. The server begins a text block of Bedrock with an empty `start`, which is no value of that
/// union: the service itself sends none, and its SDK refuses it. Such events are left out.
#[derive(Default)]
struct Events {
    open: Vec<u8>,
    in_stream: bool,
}

impl Events {
    /// Takes what came; answers what goes on.
    fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if !self.in_stream {
            // The head of an answer comes in one piece, and nothing else on this connection looks like it.
            let Some(head) = head_of_stream(bytes) else { return bytes.to_vec() };
            self.in_stream = true;
            let mut passed = bytes[..head].to_vec();
            passed.extend(self.pass(&bytes[head..]));
            return passed;
        }
        self.open.extend_from_slice(bytes);
        let mut passed = Vec::new();
        while let Some((size, length)) = chunk(&self.open) {
            let piece: Vec<u8> = self.open.drain(..length).collect();
            self.in_stream = size > 0;
            if !piece.windows(10).any(|part| part == b"\"start\":{}") {
                passed.extend(piece);
            }
        }
        passed
    }
}

fn head_of_stream(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    text.contains("application/vnd.amazon.eventstream").then_some(head)
}

/// Size of the first chunk and its length with its frame, where all of it is there.
fn chunk(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = bytes.windows(2).position(|part| part == b"\r\n")?;
    let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
    let length = line + 2 + size + 2;
    (bytes.len() >= length).then_some((size, length))
}
