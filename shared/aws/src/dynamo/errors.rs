//! The SDK's errors as the store's.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use pvm_application::store::StoreError;

/// Codes with which DynamoDB asks to slow down.
const THROTTLES: [&str; 6] = [
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",
    "RequestLimitExceeded",
    "ThrottlingException",
    "ThrottlingError",
    "LimitExceededException",
];
/// Codes of faults that pass.
const PASSING: [&str; 5] = [
    "InternalServerError",
    "ServiceUnavailable",
    "TransactionInProgressException",
    "ReplicatedWriteConflictException",
    "ExpiredTokenException",
];

/// Whether an error or a cancellation reason asks to slow down.
pub(super) fn is_throttle(code: &str) -> bool {
    THROTTLES.contains(&code)
}

/// What an error means for the caller, conditions aside.
pub(super) fn store_error<E>(error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default();
    if is_throttle(code) {
        return StoreError::Throttled(error.into());
    }
    match &error {
        SdkError::ConstructionFailure(_) => {
            StoreError::Broken(format!("the request could not be made: {:?}", anyhow::Error::from(error)))
        }
        SdkError::ServiceError(answer) => {
            if PASSING.contains(&code) || answer.raw().status().is_server_error() {
                StoreError::Unavailable(error.into())
            } else {
                let message = error.message().unwrap_or("no message");
                StoreError::Broken(format!("{code}: {message}"))
            }
        }
        _ => StoreError::Unavailable(error.into()),
    }
}
