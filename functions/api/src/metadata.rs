//! `GET /.well-known/oauth-protected-resource`: where a client gets a token for the MCP server.

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_entry::{Reply, Settings};

/// Shows the metadata.
///
/// # Errors
/// `not_found` where no issuer is configured.
pub async fn handle(settings: &Settings, request: Request) -> AppResult<Reply> {
    pvm_mcp::metadata(settings, &request)
}
