//! `GET /healthz`

use pvm_api::health;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-health").await?;
    start.http(health::handle).await
}
