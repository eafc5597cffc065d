//! The MCP server's row of the table: the server itself is a crate of its own, which takes all that its tools need.

use std::sync::Arc;

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_entry::{Reply, Wiring};
use pvm_mcp::{Doors, Mcp, Waits};
use pvm_tools::Registry;

/// Serves one request of `POST /api/projects/{project_id}/mcp`.
///
/// # Errors
/// Of the server.
pub async fn handle<P: Wiring>(p: &P, request: Request) -> AppResult<Reply> {
    let tools = Registry::new(p.store().clone(), p.workflow().clone(), p.vm().clone(), p.ambient().clone());
    let (objects, saver, signer) = (p.objects().clone(), p.saver().clone(), p.signer().clone());
    let mcp = Arc::new(Mcp { tools, objects, saver, signer, waits: Waits::default() });
    pvm_mcp::handle(&mcp, &Doors::of(p.settings()), request).await
}
