//! `GET /.well-known/oauth-protected-resource/api/projects/{project_id}/mcp`

use pvm_api::metadata;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-mcp-metadata").await?;
    let settings = start.settings();
    start.http(|request| metadata::handle(settings, request)).await
}
