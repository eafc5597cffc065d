//! `GET /.well-known/oauth-protected-resource`

use pvm_api::metadata;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-resource-metadata").await?;
    let settings = start.settings();
    start.http(|request| metadata::handle(settings, request)).await
}
