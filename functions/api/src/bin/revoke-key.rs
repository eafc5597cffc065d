//! `DELETE /api/keys/{key_id}`

use pvm_api::keys::revoke;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("revoke-key").await?;
    let store = start.store()?;
    start.http(|request| revoke::handle(store, &System, request)).await
}
