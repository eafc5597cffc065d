//! `GET /api/limits`

use pvm_api::limits::get;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-limits").await?;
    let store = start.read_store()?;
    start.http(|request| get::handle(store, &System, request)).await
}
