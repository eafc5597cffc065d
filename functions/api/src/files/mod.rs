//! Files of a project.

pub mod abort;
pub mod complete;
pub mod delete;
pub mod get;
pub mod list;
mod multipart;
pub mod restore;
pub mod upload;
pub mod version;
pub mod versions;

use jiff::SignedDuration;
use lambda_http::Request;
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::{Clock, Presigned};
use pvm_contracts::files::SignedRequest;
use pvm_domain::limits;
use pvm_entry::request;

/// The number of a version in the path.
fn version_number(request: &Request) -> AppResult<u64> {
    let text = request::path_text(request, "number")?;
    text.parse().map_err(|_| AppError::not_found("version of the file"))
}

/// A request to the file store as clients see it.
pub(crate) fn signed(request: Presigned, clock: &impl Clock) -> SignedRequest {
    signed_for(request, clock, limits::PRESIGNED_SECS)
}

/// The same, good for so many seconds.
fn signed_for(request: Presigned, clock: &impl Clock, secs: u64) -> SignedRequest {
    let good_for = SignedDuration::from_secs(secs.cast_signed());
    let now = clock.now();
    SignedRequest {
        method: request.method,
        url: request.url,
        headers: request.headers.into_iter().collect(),
        expires_at: now.saturating_add(good_for).unwrap_or(now),
    }
}
