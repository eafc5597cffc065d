//! Secrets of the install itself (keys of the VM service and of model providers), read once at a function's start from
//! Secrets Manager, so that no variable and no template holds them.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::DisplayErrorContext;

/// The text of the secret `id` (a name or ARN).
///
/// # Errors
/// Where it has no value yet, may not be read, or the service does not answer; says which secret and what to do.
pub async fn read(client: &Client, id: &str) -> anyhow::Result<String> {
    read_if_set(client, id).await?.ok_or_else(|| {
        anyhow::anyhow!(
            "the secret {id} has no value yet: put one with `aws secretsmanager put-secret-value --secret-id {id} ...`"
        )
    })
}

/// The text of the secret `id` (a name or ARN); `None` where it has no value yet.
///
/// # Errors
/// Where it may not be read, is not text, or the service does not answer; says which secret.
pub async fn read_if_set(client: &Client, id: &str) -> anyhow::Result<Option<String>> {
    match client.get_secret_value().secret_id(id).send().await {
        Ok(answer) => match answer.secret_string {
            Some(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            None if answer.secret_binary.is_none() => Ok(None),
            None => anyhow::bail!("the secret {id} is binary; it must be text"),
        },
        // A secret that the template made and nobody has filled is told as one without a version.
        Err(error)
            if error.as_service_error().is_some_and(aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => anyhow::bail!("the secret {id} cannot be read: {}", DisplayErrorContext(&error)),
    }
}
