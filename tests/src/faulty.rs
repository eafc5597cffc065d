//! A TCP proxy in front of a VM provider that can be made to fail in the ways that providers do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the provider behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Well.
    Pass,
    /// Connections break.
    Down,
    /// Connections are taken and never answered.
    Silent,
    /// Well, and every piece of a request or answer takes a while.
    Slow,
    /// Every request is answered with 429 and `Retry-After: 1`.
    Busy,
}

/// The proxy. Ends with its last clone's runtime.
#[derive(Debug, Clone)]
pub struct Faulty {
    /// Where it listens.
    pub addr: SocketAddr,
    mode: watch::Sender<Mode>,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Faulty {
    /// Starts a proxy; requests wait for [`Faulty::aim`].
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let faulty = Self { addr, mode: watch::Sender::new(Mode::Pass), target: Arc::default() };
        let served = faulty.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = served.clone();
                tokio::spawn(async move { proxy.serve(client).await });
            }
        });
        faulty
    }

    /// Sets where requests go.
    pub fn aim(&self, target: SocketAddr) {
        *self.target.lock().expect("nobody panics with it") = Some(target);
    }

    /// Changes how the provider behaves; connections that are open break.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    async fn serve(&self, client: TcpStream) {
        let mut changes = self.mode.subscribe();
        let mode = *changes.borrow_and_update();
        tokio::select! {
            () = self.behave(mode, client) => {}
            _ = changes.changed() => {}
        }
    }

    async fn behave(&self, mode: Mode, mut client: TcpStream) {
        match mode {
            Mode::Down => {}
            Mode::Silent => std::future::pending().await,
            Mode::Busy => {
                let mut head = vec![0; 64 * 1024];
                // What comes does not matter, only that something did.
                if client.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let answer = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
                        connection: close\r\ncontent-length: 36\r\n\r\n{\"code\":429,\"message\":\"Slow down\"  }";
                    drop(client.write_all(answer.as_bytes()).await);
                    drop(client.shutdown().await);
                    // A client that is still sending shall see the answer and not a broken pipe.
                    while client.read(&mut head).await.is_ok_and(|read| read > 0) {}
                }
            }
            Mode::Slow => {
                let target = *self.target.lock().expect("nobody panics with it");
                if let Some(target) = target
                    && let Ok(server) = TcpStream::connect(target).await
                {
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(crawl(from_client, to_server), crawl(from_server, to_client));
                }
            }
            Mode::Pass => {
                let target = *self.target.lock().expect("nobody panics with it");
                if let Some(target) = target
                    && let Ok(mut server) = TcpStream::connect(target).await
                {
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                }
            }
        }
    }
}

/// How long a piece takes on its way through a slow proxy.
const PIECE: std::time::Duration = std::time::Duration::from_millis(100);

/// Passes on what comes, piece by piece.
async fn crawl(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        tokio::time::sleep(PIECE).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}
