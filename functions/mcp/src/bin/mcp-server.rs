//! `POST /api/projects/{project_id}/mcp`

use std::sync::Arc;

use pvm_entry::{Outcome, Start};
use pvm_mcp::{Doors, Mcp, Waits};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("mcp-server").await?;
    let store = start.store()?;
    let (objects, saver) = (start.objects()?.clone(), start.saver()?.clone());
    let tools = start.tools(store, start.workflow()?, start.vm().await?).clone();
    let signer = start.signer(store).await?.clone();
    let mcp = &Arc::new(Mcp { tools, objects, saver, signer, waits: Waits::default() });
    let doors = &Doors::of(start.settings());
    start.http_streaming(|request| pvm_mcp::handle(mcp, doors, request)).await
}
