//! `POST /api/keys`

use pvm_api::keys::create;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-key").await?;
    let store = start.store()?;
    start.http(|request| create::handle(store, &System, request)).await
}
