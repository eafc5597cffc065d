//! `GET /healthz`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_contracts::health::Health;
use pvm_entry::{Reply, reply};

/// Says that the API answers.
///
/// # Errors
/// None.
pub async fn handle(_request: Request) -> AppResult<Reply> {
    Ok(reply::ok(&Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }))
}
