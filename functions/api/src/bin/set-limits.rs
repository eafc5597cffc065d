//! `PUT /api/limits/{owner}`

use pvm_api::limits::set;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("set-limits").await?;
    let settings = start.settings();
    let store = start.store()?;
    start.http(|request| set::handle(settings, store, &System, request)).await
}
