//! Secrets of the install itself (keys of the VM service and of model providers), read once at a function's start from
//! Secrets Manager, so that no variable and no template holds them.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;

/// The text of the secret `id` (a name or ARN).
///
/// # Errors
/// Where it has no value yet, may not be read, or the service does not answer; says which secret and what to do.
pub async fn read(client: &Client, id: &str) -> anyhow::Result<String> {
    let answer = client.get_secret_value().secret_id(id).send().await.map_err(|error| {
        let missing = error.as_service_error().is_some_and(GetSecretValueError::is_resource_not_found_exception);
        if missing {
            anyhow::anyhow!(
                "the secret {id} has no value yet: put one with `aws secretsmanager put-secret-value --secret-id {id} ...`"
            )
        } else {
            anyhow::anyhow!("the secret {id} cannot be read: {}", DisplayErrorContext(&error))
        }
    })?;
    match answer.secret_string {
        Some(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => anyhow::bail!("the secret {id} is empty or binary; it must be text"),
    }
}
