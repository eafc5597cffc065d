//! The way out: a port inside the sandbox, each connection to which goes on to the sandbox server's proxy.
//!
//! The server is looked up by its socket's path for each connection, so it may be restarted meanwhile.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, timeout};

use crate::log;

/// Where the proxy is found inside the sandbox.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3128);

/// Connections at one time. The server has its own limit per sandbox; this one protects the daemon.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes buffered per direction.
const BUFFER: usize = 16 * 1024;
/// How long a client whose request cannot go on may take to send it.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// What a client gets while the server is away.
const UNAVAILABLE: &str = "The sandbox's way to the network is not available just now; try it again.\n";

/// Serves the port for ever.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(socket: PathBuf) -> io::Result<()> {
    let listener = TcpListener::bind(ADDRESS).await?;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((client, _)) => {
                let socket = socket.clone();
                tokio::spawn(async move {
                    forward(client, &socket).await.ok();
                    drop(permit);
                });
            }
            Err(error) => crate::server::after_accept_error("egress", &error).await,
        }
    }
}

async fn forward(mut client: TcpStream, socket: &PathBuf) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut server = match UnixStream::connect(socket).await {
        Ok(server) => server,
        Err(error) => {
            log::warn("the egress proxy is not there", json!({"error": error.to_string()}));
            return refuse(&mut client).await;
        }
    };
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(drop)
}

/// Tells the client. The request is read first: closing on unread bytes would take the answer back.
async fn refuse(client: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    if let Ok(read) = timeout(REQUEST_LIMIT, client.read(&mut request)).await {
        read?;
    }
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n",
        UNAVAILABLE.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(UNAVAILABLE.as_bytes()).await?;
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_absence_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("egress.sock");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let forwarding = {
            let socket = socket.clone();
            tokio::spawn(async move {
                for _ in 0..2 {
                    let (client, _) = listener.accept().await.unwrap();
                    forward(client, &socket).await.unwrap();
                }
            })
        };
        let mut answer = String::new();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n").await.unwrap();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"));

        let proxy = tokio::net::UnixListener::bind(&socket).unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = proxy.accept().await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        server.write_all(b"pong").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "pong");
        drop(client);
        forwarding.await.unwrap();
    }
}
