//! Short waits that a provider asks for are waited for here; a longer one goes back to the workflow, which waits
//! without compute.

use std::time::Duration;

use pvm_application::ports_model::{ModelAnswer, ModelError};

/// The longest wait that is worth staying for: ending the step and coming back takes about as long.
const SHORT: Duration = Duration::from_secs(2);
/// How often a call is made at most, the first time included.
const TRIES: u32 = 3;

/// Makes a call, again after each short wait that its refusal asks for. A hint comes before any text does, so nothing is
/// said twice.
pub(crate) async fn with_short_waits<F, Fut>(call: F) -> Result<ModelAnswer, ModelError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<ModelAnswer, ModelError>>,
{
    let mut tried = 1;
    loop {
        match call().await {
            Err(
                ModelError::RateLimited { retry_after: Some(wait) }
                | ModelError::Overloaded { retry_after: Some(wait) },
            ) if wait <= SHORT && tried < TRIES => {
                tracing::debug!(wait_ms = wait.as_millis(), tried, "the provider asks for a short wait");
                tokio::time::sleep(wait).await;
                tried += 1;
            }
            outcome => return outcome,
        }
    }
}
