//! Byte pipes to ports inside a sandbox.

use http::{Method, Request, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::EnvdError;
use super::pool::Pool;
use crate::body;

/// Why no connection to a port came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nothing listens there.
    #[error("nothing listens on the port")]
    Refused,
    /// envd did not answer as expected.
    #[error(transparent)]
    Envd(#[from] EnvdError),
}

/// Connects to `port` on the sandbox's loopback.
pub(super) async fn dial(pool: &Pool, port: u16) -> Result<TokioIo<Upgraded>, DialError> {
    let mut sender = pool.open().await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/pvm.Control/Dial?port={port}"))
        .header(header::HOST, "envd")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "tcp")
        .body(body::empty())
        .map_err(EnvdError::Request)?;
    let response = sender.send_request(request).await.map_err(EnvdError::from)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(EnvdError::from)?))
        }
        StatusCode::BAD_GATEWAY => Err(DialError::Refused),
        other => Err(EnvdError::Status(other).into()),
    }
}
