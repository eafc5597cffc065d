//! Language models by provider. A model's name is `provider/model`; which providers there are is a matter of settings,
//! and a model of a provider that is not set up is refused with what is missing.
#![warn(missing_docs)]

mod replay;

use std::sync::Arc;

use pvm_application::ports_model::{CallModel, ModelAnswer, ModelError, ModelFacts, ModelRequest};
use tokio::sync::mpsc;

pub use replay::{BadRecording, Library, RecordedAnswer, RecordedCall, Recording, Replay};

/// What is set up.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The model of agents that name none.
    pub default_model: String,
    /// The replay model.
    pub replay: Replay,
}

/// The models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Models {
    inner: Arc<ModelSettings>,
}

impl Models {
    /// Models as set up.
    pub fn new(settings: ModelSettings) -> Self {
        Self { inner: Arc::new(settings) }
    }

    /// The providers that can be used, for people.
    pub fn providers(&self) -> Vec<String> {
        vec![replay::NAME.to_owned()]
    }
}

fn unknown(model: &str) -> ModelError {
    ModelError::NotConfigured(format!("there is no provider for {model:?}; the name has the form provider/model"))
}

impl CallModel for Models {
    fn default_model(&self) -> &str {
        &self.inner.default_model
    }

    fn facts(&self, model: &str) -> Result<ModelFacts, ModelError> {
        match model.split_once('/') {
            Some((replay::NAME, _)) => Ok(replay::FACTS),
            _ => Err(unknown(model)),
        }
    }

    async fn call(&self, request: &ModelRequest, text: mpsc::Sender<String>) -> Result<ModelAnswer, ModelError> {
        match request.model.split_once('/') {
            Some((replay::NAME, _)) => self.inner.replay.call(request, &text).await,
            _ => Err(unknown(&request.model)),
        }
    }
}
