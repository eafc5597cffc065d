//! `Idempotency-Key` on routes that may be repeated anyway: the key is remembered all the same, so that using it for
//! another request is told as the mistake it is.

use pvm_application::error::AppResult;
use pvm_application::idempotency::{Claim, replayed};
use pvm_application::ports::Clock;
use pvm_application::store::{StoreError, Tx, WriteStore};

/// Remembers the claim with the resource that the request is about.
///
/// # Errors
/// `idempotency_mismatch` where the key was used for another request.
pub(crate) async fn note(
    store: &impl WriteStore,
    clock: &impl Clock,
    claim: Option<&Claim>,
    resource: impl ToString,
) -> AppResult<()> {
    let Some(claim) = claim else { return Ok(()) };
    if replayed(store, Some(claim), clock.now()).await?.is_some() {
        return Ok(());
    }
    let mut memory = claim.record(resource, clock.now());
    match store.commit(Tx::new().create(&mut memory)).await {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => replayed(store, Some(claim), clock.now()).await.map(|_| ()),
        Err(other) => Err(other.into()),
    }
}
