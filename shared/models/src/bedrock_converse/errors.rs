//! What Bedrock's errors mean.

use aws_sdk_bedrockruntime::config::http::HttpResponse;
use aws_sdk_bedrockruntime::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_bedrockruntime::operation::converse_stream::ConverseStreamError;
use aws_sdk_bedrockruntime::types::error::ConverseStreamOutputError;
use pvm_application::ports_model::ModelError;

use super::NAME;
use crate::endpoint::{self, Hints, Told};

/// An error before the stream began.
pub(super) fn of_call(error: SdkError<ConverseStreamError, HttpResponse>) -> ModelError {
    let raw = error.raw_response();
    let hints = raw.map(|raw| Hints::read(|name| raw.headers().get(name))).unwrap_or_default();
    let status = raw.map(|raw| raw.status().as_u16());
    // Answers of other servers than the service itself (gateways) are told by their status and whatever body they have.
    let body = raw.and_then(|raw| raw.body().bytes()).map(String::from_utf8_lossy).unwrap_or_default();
    match &error {
        SdkError::ServiceError(context) => {
            let known = known(context.err().code(), context.err().message(), hints);
            known.unwrap_or_else(|| endpoint::refused(NAME, status.unwrap_or(500), hints, &body))
        }
        SdkError::ResponseError(_) if status.is_some_and(|status| status >= 400) => {
            endpoint::refused(NAME, status.unwrap_or(500), hints, &body)
        }
        SdkError::ResponseError(_) => ModelError::Broken("the answer could not be read".to_owned()),
        SdkError::ConstructionFailure(_) => ModelError::Refused("the request could not be made".to_owned()),
        _ if lacks_credentials(&error) => ModelError::NotConfigured(format!(
            "{NAME} needs AWS credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
        )),
        other => {
            let is_timeout = matches!(other, SdkError::TimeoutError(_));
            tracing::warn!(provider = NAME, is_timeout, "no answer");
            ModelError::Overloaded { retry_after: None }
        }
    }
}

/// An error in the middle of the stream, where the service names it by its type alone.
pub(super) fn of_stream<R>(error: SdkError<ConverseStreamOutputError, R>) -> ModelError {
    let SdkError::ServiceError(context) = &error else {
        return ModelError::Broken("the stream broke off".to_owned());
    };
    let error = context.err();
    let name = match error {
        ConverseStreamOutputError::ThrottlingException(_) => "ThrottlingException",
        ConverseStreamOutputError::ServiceUnavailableException(_) => "ServiceUnavailableException",
        ConverseStreamOutputError::InternalServerException(_) => "InternalServerException",
        ConverseStreamOutputError::ModelStreamErrorException(_) => "ModelStreamErrorException",
        ConverseStreamOutputError::ValidationException(_) => "ValidationException",
        other => other.code().unwrap_or_default(),
    };
    known(Some(name), error.message(), Hints::default())
        .unwrap_or_else(|| ModelError::Broken(Told::new(error.message().unwrap_or_default()).shown()))
}

/// The errors that the service documents, by their names.
fn known(code: Option<&str>, message: Option<&str>, hints: Hints) -> Option<ModelError> {
    let told = Told::new(message.unwrap_or_default());
    let shown = told.shown();
    let retry_after = hints.retry_after;
    Some(match code? {
        "ThrottlingException" => ModelError::RateLimited { retry_after },
        "ModelTimeoutException"
        | "ModelNotReadyException"
        | "ServiceUnavailableException"
        | "InternalServerException" => ModelError::Overloaded { retry_after },
        "ModelErrorException" | "ModelStreamErrorException" => ModelError::Broken(shown),
        "ValidationException" if endpoint::is_overflow(&told) => ModelError::ContextOverflow,
        "ValidationException" => ModelError::Refused(shown),
        "AccessDeniedException" => {
            ModelError::NotConfigured(format!("{NAME} does not allow the model: {shown}"))
        }
        "ResourceNotFoundException" => {
            ModelError::NotConfigured(format!("{NAME} does not know the model: {shown}"))
        }
        "ServiceQuotaExceededException" => {
            ModelError::NotConfigured(format!("the quota at {NAME} is used up: {shown}"))
        }
        _ => return None,
    })
}

fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<aws_credential_types::provider::error::CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_means_what_the_service_says_it_does() {
        let of = |code: &str, message: &str| known(Some(code), Some(message), Hints::default()).unwrap();
        assert!(matches!(of("ThrottlingException", "slow"), ModelError::RateLimited { retry_after: None }));
        assert!(matches!(of("ModelNotReadyException", ""), ModelError::Overloaded { .. }));
        assert!(matches!(of("ModelStreamErrorException", "m"), ModelError::Broken(why) if why == "m"));
        let long = "Input is too long for requested model.";
        assert!(matches!(of("ValidationException", long), ModelError::ContextOverflow));
        assert!(matches!(of("ValidationException", "bad"), ModelError::Refused(why) if why == "bad"));
        let denied = of("AccessDeniedException", "no access to x").to_string();
        assert_eq!(denied, "bedrock does not allow the model: no access to x");
        assert!(known(Some("StrangeException"), None, Hints::default()).is_none());
    }
}
