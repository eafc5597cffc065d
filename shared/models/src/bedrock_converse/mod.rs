//! Amazon Bedrock's Converse, streamed. Who calls is a matter of IAM (or of Bedrock's own bearer token); no key of ours
//! is involved.

mod answer;
mod errors;
mod request;
mod stable;

use std::time::Duration;

use aws_sdk_bedrockruntime::Client;
use pvm_application::ports_model::{ModelAnswer, ModelError, ModelRequest};
use tokio::sync::mpsc;

use crate::endpoint::SILENCE;
use answer::Gathered;
use stable::StableOrder;

/// The name of this provider.
pub(crate) const NAME: &str = "bedrock";

/// The provider, ready to be called.
#[derive(Debug, Clone)]
pub(crate) struct BedrockConverse {
    client: Client,
}

impl BedrockConverse {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) async fn call(
        &self,
        model: &str,
        request: &ModelRequest,
        text: &mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        let parts = request::build(model, request)?;
        let call = self
            .client
            .converse_stream()
            .model_id(model)
            .set_system(Some(parts.system))
            .set_messages(Some(parts.messages))
            .inference_config(parts.inference)
            .set_tool_config(parts.tools)
            .customize()
            .interceptor(StableOrder);
        let mut stream = call.send().await.map_err(errors::of_call)?.stream;
        let mut answer = Gathered::default();
        loop {
            let event = match within(SILENCE, stream.recv()).await? {
                Ok(Some(event)) => event,
                Ok(None) => break,
                // Only the count of what was used comes after the end.
                Err(_) if answer.has_ended() => break,
                Err(error) => return Err(errors::of_stream(error)),
            };
            let piece = answer.take(event);
            if !piece.is_empty() {
                // Nobody listens any more: the caller will drop this call.
                drop(text.send(piece).await);
            }
            if answer.is_too_long() {
                break;
            }
        }
        answer.finish()
    }
}

async fn within<T>(silence: Duration, next: impl Future<Output = T>) -> Result<T, ModelError> {
    tokio::time::timeout(silence, next)
        .await
        .map_err(|_| ModelError::Broken(format!("the stream was silent for {} seconds", silence.as_secs())))
}
