//! Files of a project.

pub mod delete;
pub mod get;
pub mod list;
mod multipart;
pub mod upload;

use jiff::SignedDuration;
use pvm_application::ports::{Clock, Presigned};
use pvm_contracts::files::SignedRequest;
use pvm_domain::limits;

/// A request to the file store as clients see it.
fn signed(request: Presigned, clock: &impl Clock) -> SignedRequest {
    let good_for = SignedDuration::from_secs(limits::PRESIGNED_SECS.cast_signed());
    let now = clock.now();
    SignedRequest {
        method: request.method,
        url: request.url,
        headers: request.headers.into_iter().collect(),
        expires_at: now.saturating_add(good_for).unwrap_or(now),
    }
}
