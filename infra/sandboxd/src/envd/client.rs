//! envd's endpoints as the server uses them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::connect::CONTENT_TYPE_UNARY;
use pvm_e2b_wire::envd_http::InitRequest;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::pool::{Pool, SocketAddress};
use super::{DialError, dial};
use crate::body::{self, Body};

/// Name of the control socket in the sandbox's `run` folder.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// Name of the data socket in the sandbox's `run` folder.
pub(crate) const DATA_SOCKET: &str = "data.sock";
/// How long the server waits for an answer to its own small requests. A sandbox can make its envd slow; it must
/// not make the server wait for ever.
const OWN_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer to one of its own requests that the server reads.
const MAX_OWN_ANSWER: usize = 8 * 1024 * 1024;

/// Why envd could not be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvdError {
    /// Its socket does not accept.
    #[error("the sandbox's daemon cannot be reached: {0}")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("the connection to the sandbox's daemon broke: {0}")]
    Http(#[from] hyper::Error),
    /// A request that cannot be expressed.
    #[error("not a valid request: {0}")]
    Request(#[source] http::Error),
    /// An unexpected answer.
    #[error("the sandbox's daemon answered {0}")]
    Status(StatusCode),
    /// No answer in time, or too long a one.
    #[error("the sandbox's daemon did not answer properly")]
    Unresponsive,
}

impl EnvdError {
    /// Whether it is sure that the request did not reach the daemon.
    pub(crate) fn is_before_sending(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Request(_))
    }
}

/// The envd of one running sandbox.
#[derive(Debug)]
pub(crate) struct Envd {
    control: Pool,
    data: Pool,
}

impl Envd {
    /// `run` is the folder with the two sockets; `ended` breaks all connections off.
    pub(crate) fn new(run: &Path, ended: &CancellationToken) -> std::io::Result<Self> {
        let folder = Arc::new(std::fs::File::open(run)?);
        let pool = |name| Pool::new(SocketAddress { folder: Arc::clone(&folder), name }, ended.clone());
        Ok(Self { control: pool(CONTROL_SOCKET), data: pool(DATA_SOCKET) })
    }

    /// Passes a request from outside on.
    pub(crate) async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, EnvdError> {
        self.data.send(request).await
    }

    /// A fresh connection for a request from outside that may upgrade.
    pub(crate) async fn forward_upgrade(
        &self,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, EnvdError> {
        let mut sender = self.data.open().await?;
        Ok(sender.send_request(request).await?)
    }

    /// A byte pipe to a port inside.
    pub(crate) async fn dial(&self, port: u16) -> Result<TokioIo<Upgraded>, DialError> {
        dial::dial(&self.control, port).await
    }

    /// Applies settings.
    pub(crate) async fn init(&self, settings: &InitRequest) -> Result<(), EnvdError> {
        self.control_call("/init", settings).await.map(|_| ())
    }

    /// Moves the moment after which envd gives up waiting for a server.
    pub(crate) async fn set_end(&self, end_at_unix_ms: u64) -> Result<(), EnvdError> {
        self.control_call("/pvm.Control/Timeout", &serde_json::json!({ "endAtUnixMs": end_at_unix_ms }))
            .await
            .map(|_| ())
    }

    /// Ends every process in an orderly way, and envd with them.
    pub(crate) async fn shut_down(&self, grace: Duration) -> Result<(), EnvdError> {
        let body = serde_json::json!({ "graceMs": u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) });
        self.control_call_within("/pvm.Control/Shutdown", &body, grace + OWN_REQUEST_TIMEOUT)
            .await
            .map(|_| ())
    }

    /// Whether envd answers.
    pub(crate) async fn is_healthy(&self) -> bool {
        let request = Request::get("/health").header(header::HOST, "envd").body(body::empty());
        let Ok(request) = request else { return false };
        let answer = tokio::time::timeout(OWN_REQUEST_TIMEOUT, self.control.send(request)).await;
        matches!(answer, Ok(Ok(response)) if response.status().is_success())
    }

    /// Calls a unary method and reads its answer.
    pub(crate) async fn control_call(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<bytes::Bytes, EnvdError> {
        self.control_call_within(path, message, OWN_REQUEST_TIMEOUT).await
    }

    /// The same with another limit of time.
    pub(crate) async fn control_call_within(
        &self,
        path: &str,
        message: &impl Serialize,
        limit: Duration,
    ) -> Result<bytes::Bytes, EnvdError> {
        let document = serde_json::to_vec(message).map_err(|_| EnvdError::Unresponsive)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "envd")
            .header(header::CONTENT_TYPE, CONTENT_TYPE_UNARY)
            .body(body::full(document))
            .map_err(EnvdError::Request)?;
        self.control_request(request, limit).await
    }

    /// Sends any request on the control socket and reads the whole answer, which must be a success.
    pub(crate) async fn control_request(
        &self,
        request: Request<Body>,
        limit: Duration,
    ) -> Result<bytes::Bytes, EnvdError> {
        let exchange = async {
            let response = self.control.send(request).await?;
            let status = response.status();
            let answer = body::read_all(response.into_body(), MAX_OWN_ANSWER).await;
            let answer = answer.ok_or(EnvdError::Unresponsive)?;
            if status.is_success() { Ok(answer) } else { Err(EnvdError::Status(status)) }
        };
        tokio::time::timeout(limit, exchange).await.map_err(|_| EnvdError::Unresponsive)?
    }
}
