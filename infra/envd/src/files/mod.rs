//! `/files`: whole files over plain HTTP, and joining them.

pub mod compose;
pub mod conditions;
pub mod download;
pub mod form;
pub mod inflate;
pub mod metadata;
pub mod raw_upload;
pub mod upload;

use std::io;

use hyper::{HeaderMap, StatusCode, Uri};
use jiff::Timestamp;
use pvm_e2b_wire::HEADER_ACCESS_TOKEN;
use pvm_e2b_wire::signature::{self, Operation};

use crate::accounts::{self, Account};
use crate::daemon::Daemon;
use crate::http::request::{header, query};
use crate::http::{Response, reply};

/// Why a request about files is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FileError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What went wrong.
    pub message: String,
}

impl FileError {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// A mistake of the caller.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A system error; want of space has its own status.
    pub fn system(action: &str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "not enough disk space available")
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{action}: {error}")),
        }
    }

    /// The answer that tells it.
    pub fn reply(&self) -> Response {
        reply::error_reply(self.status, &self.message)
    }
}

/// Checks that the request may read or write this file: by the access token, or by a signature in the URL.
///
/// # Errors
/// 401.
pub fn authorize(
    daemon: &Daemon,
    headers: &HeaderMap,
    uri: &Uri,
    operation: Operation,
) -> Result<(), FileError> {
    let Some(token) = daemon.token() else { return Ok(()) };
    let refused = |message: String| FileError::new(StatusCode::UNAUTHORIZED, message);
    if let Some(sent) = header(headers, HEADER_ACCESS_TOKEN).filter(|sent| !sent.is_empty()) {
        let right = token.matches(sent);
        return right
            .then_some(())
            .ok_or_else(|| refused("access token present in header but does not match".to_owned()));
    }
    let expires_at = match query(uri, "signature_expiration") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| FileError::bad("signature_expiration must be a number of unix seconds"))?,
        ),
    };
    signature::verify(
        query(uri, "signature").as_deref(),
        &query(uri, "path").unwrap_or_default(),
        operation,
        &query(uri, "username").unwrap_or_default(),
        token.expose(),
        expires_at,
        Timestamp::now().as_second(),
    )
    .map_err(|error| refused(error.to_string()))
}

/// The user of a request: the `username` given, else the default.
///
/// # Errors
/// 401 when there is no such user.
pub fn user(daemon: &Daemon, username: Option<String>) -> Result<Account, FileError> {
    let name = username.filter(|name| !name.is_empty()).unwrap_or_else(|| daemon.default_user());
    match accounts::find(&name) {
        Ok(Some(account)) => Ok(account),
        Ok(None) => {
            let message = format!("error looking up user '{name}': user: unknown user {name}");
            Err(FileError::new(StatusCode::UNAUTHORIZED, message))
        }
        Err(error) => Err(FileError::system("reading the users", &error)),
    }
}

/// Runs file work where it may block.
///
/// # Errors
/// Those of the work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FileError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
