//! Values of projects' secrets in Secrets Manager: `pvm/<deployment>/<project>/<name>` each.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::http::HttpResponse;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::create_secret::CreateSecretError;
use aws_sdk_secretsmanager::operation::delete_secret::DeleteSecretError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_sdk_secretsmanager::operation::put_secret_value::PutSecretValueError;
use pvm_application::ports::{KeepSecrets, ReadSecrets, SecretError, SecretValue};
use pvm_domain::ids::ProjectId;

/// Secrets Manager, for one deployment.
#[derive(Debug, Clone)]
pub struct ManagedSecrets {
    client: Client,
    deployment: String,
}

impl ManagedSecrets {
    /// The secrets of `deployment`, whose name keeps those of several installs in one account apart.
    pub fn new(client: Client, deployment: impl Into<String>) -> Self {
        Self { client, deployment: deployment.into() }
    }

    fn id(&self, project: &ProjectId, name: &str) -> String {
        format!("pvm/{}/{project}/{name}", self.deployment)
    }
}

fn unavailable<E>(error: SdkError<E, HttpResponse>) -> SecretError
where
    E: std::error::Error + Send + Sync + 'static,
{
    SecretError::Unavailable(error.into())
}

impl ReadSecrets for ManagedSecrets {
    async fn get_secret(&self, project: &ProjectId, name: &str) -> Result<Option<SecretValue>, SecretError> {
        match self.client.get_secret_value().secret_id(self.id(project, name)).send().await {
            Ok(answer) => Ok(answer.secret_string.map(SecretValue::new)),
            Err(error) => match error.as_service_error() {
                // One whose deletion is under way is told as an invalid request.
                Some(
                    GetSecretValueError::ResourceNotFoundException(_)
                    | GetSecretValueError::InvalidRequestException(_),
                ) => Ok(None),
                _ => Err(unavailable(error)),
            },
        }
    }
}

impl KeepSecrets for ManagedSecrets {
    async fn put_secret(
        &self,
        project: &ProjectId,
        name: &str,
        value: SecretValue,
    ) -> Result<(), SecretError> {
        let id = self.id(project, name);
        let put = || self.client.put_secret_value().secret_id(&id).secret_string(value.expose()).send();
        match put().await {
            Ok(_) => return Ok(()),
            Err(error) => match error.as_service_error() {
                Some(PutSecretValueError::ResourceNotFoundException(_)) => {}
                _ => return Err(unavailable(error)),
            },
        }
        match self.client.create_secret().name(&id).secret_string(value.expose()).send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                // Somebody else was faster.
                Some(CreateSecretError::ResourceExistsException(_)) => {
                    put().await.map(|_| ()).map_err(unavailable)
                }
                _ => Err(unavailable(error)),
            },
        }
    }

    async fn delete_secret(&self, project: &ProjectId, name: &str) -> Result<(), SecretError> {
        // At once: a value that can be brought back for a month is not what "delete" says.
        let request = self.client.delete_secret().secret_id(self.id(project, name));
        match request.force_delete_without_recovery(true).send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(DeleteSecretError::ResourceNotFoundException(_)) => Ok(()),
                _ => Err(unavailable(error)),
            },
        }
    }
}
