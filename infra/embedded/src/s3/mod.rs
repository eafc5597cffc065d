//! S3 on this machine: a folder behind S3's protocol, for signed requests only, with notifications of uploads.

mod access;
mod backend;
mod conditions;
mod cors;
mod events;
mod receive;
mod store;
mod uploads;

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use pvm_aws::clients::StaticCredentials;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use backend::Backend;
use events::Outbox;
use store::Store;

pub use events::S3Event;

/// Requests under way get this long when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A client must have sent its headers within this time.
const HEADERS: Duration = Duration::from_secs(30);

/// What the server needs.
#[derive(Debug)]
pub struct S3Config {
    /// Where to listen (`PVM_S3_ADDR`); port 0 takes any free one.
    pub addr: SocketAddr,
    /// The folder of objects and credentials, made if it is missing.
    pub folder: PathBuf,
    /// Region that the notifications name.
    pub region: String,
    /// Who is told of new objects, if anybody. Told again at the next start of what was not [`S3Event::done`].
    pub events: Option<UnboundedSender<S3Event>>,
    /// Only objects whose key starts with this are told of.
    pub events_prefix: String,
}

/// A running S3. Dropped, it stops at once; [`S3Host::shutdown`] lets requests end.
#[derive(Debug)]
pub struct S3Host {
    addr: SocketAddr,
    credentials: StaticCredentials,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl S3Host {
    /// Opens the folder and listens.
    ///
    /// # Errors
    /// Says what is in the way and what to do: the address is taken, the folder cannot be written.
    pub async fn start(config: S3Config) -> anyhow::Result<Self> {
        let shown = config.folder.display().to_string();
        let unusable = || format!("the S3 folder {shown} cannot be used; check that it can be written");
        let credentials = credentials(&config.folder).with_context(unusable)?;
        let outbox = config.folder.join("events");
        let outbox = Outbox::new(outbox, &config.events_prefix, &config.region, config.events);
        let store = Store::open(&config.folder, outbox.with_context(unusable)?).with_context(unusable)?;
        store.end_abandoned_uploads(SystemTime::now()).with_context(unusable)?;
        store.outbox().send_again(&store).with_context(unusable)?;

        let listener = TcpListener::bind(config.addr).await.with_context(|| {
            format!(
                "{} is taken; stop the program that has it, or set PVM_S3_ADDR to a free address",
                config.addr
            )
        })?;
        let addr = listener.local_addr()?;
        let mut service = S3ServiceBuilder::new(Backend::new(Arc::new(store)));
        service.set_auth(SimpleAuth::from_single(&credentials.access_key, credentials.secret_key.as_str()));
        service.set_access(access::SignedOnly);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, cors::Cors::new(service.build()), stopped));
        Ok(Self { addr, credentials, stop, task: Some(task) })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL on this machine: for `ClientSettings::s3_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The credentials that it accepts.
    pub fn credentials(&self) -> StaticCredentials {
        self.credentials.clone()
    }

    /// Stops: takes no new connection, and lets requests end for up to 5 s.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It ends by itself; a panic in it was logged when it happened.
            let _ = task.await;
        }
    }
}

impl Drop for S3Host {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, service: cors::Cors, mut stopped: watch::Receiver<bool>) {
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: others must close first.
                tracing::warn!(%error, "a connection to S3 could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are small; waiting to fill a packet costs 40 ms. Where it cannot be set, it is only slower.
        let _ = stream.set_nodelay(true);
        let connection = server.serve_connection(TokioIo::new(stream), service.clone()).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to S3 ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(LAST_WORDS, connections.shutdown()).await.is_err() {
        tracing::warn!("requests to S3 were cut off at shutdown");
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    access_key: String,
    secret_key: String,
}

/// The credentials of this folder, made at its first use and readable by its owner alone.
fn credentials(folder: &Path) -> std::io::Result<StaticCredentials> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join("credentials.json");
    let kept: Kept = match std::fs::read(&file) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let kept = Kept {
                access_key: format!("PVM{:017X}", rand::random::<u64>()),
                secret_key: hex::encode(rand::random::<[u8; 32]>()),
            };
            let new = folder.join(format!("credentials.{:016x}", rand::random::<u64>()));
            let mut written =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            written.write_all(&serde_json::to_vec(&kept)?)?;
            written.sync_all()?;
            std::fs::rename(new, file)?;
            kept
        }
        Err(error) => return Err(error),
    };
    Ok(StaticCredentials { access_key: kept.access_key, secret_key: kept.secret_key })
}
