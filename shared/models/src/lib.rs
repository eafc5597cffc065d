//! Language models by provider. A model's name is `provider/model`; which providers there are is a matter of settings,
//! and a model of a provider that is not set up is refused with what is missing.
#![warn(missing_docs)]

mod anthropic_messages;
mod bedrock_converse;
mod claude;
mod endpoint;
mod known;
mod openai_chat;
mod replay;
mod shipped;
mod sse;
mod stream;
mod tries;
mod without_tools;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use pvm_application::ports_model::{
    CallModel, KnowModels, ModelAnswer, ModelError, ModelFacts, ModelRequest,
};
use tokio::sync::mpsc;

use anthropic_messages::AnthropicMessages;
use bedrock_converse::BedrockConverse;
use openai_chat::OpenAiChat;

pub use aws_sdk_bedrockruntime::Client as BedrockClient;

pub use anthropic_messages::{ANTHROPIC_URL, ANTHROPIC_VERSION, AnthropicSettings};
pub use endpoint::{BadEndpoint, ProviderKey};
pub use known::{ModelRow, ModelTable};
pub use openai_chat::{OPENAI_URL, OpenAiSettings};
pub use replay::{BadRecording, Library, RecordedAnswer, RecordedCall, Recording, Replay};

/// What is always there.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The model of agents that name none.
    pub default_model: String,
    /// The replay model.
    pub replay: Replay,
}

/// Providers of real models. An absent one is not set up.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    /// `openai/...`: OpenAI, or any server that speaks its Chat Completions.
    pub openai: Option<OpenAiSettings>,
    /// `anthropic/...`.
    pub anthropic: Option<AnthropicSettings>,
    /// `bedrock/...`: models of Amazon Bedrock, with the client's own credentials.
    pub bedrock: Option<BedrockClient>,
    /// Windows and prices.
    pub known: ModelTable,
}

/// The models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Models {
    inner: Arc<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    settings: ModelSettings,
    openai: Option<OpenAiChat>,
    anthropic: Option<AnthropicMessages>,
    bedrock: Option<BedrockConverse>,
    known: ModelTable,
    /// Models that their provider did not deny.
    confirmed: Arc<Mutex<BTreeSet<String>>>,
}

/// All providers, set up or not.
const PROVIDERS: [&str; 4] =
    [replay::NAME, openai_chat::NAME, anthropic_messages::NAME, bedrock_converse::NAME];

impl Models {
    /// The replay model alone.
    pub fn new(settings: ModelSettings) -> Self {
        let known = ModelTable::default();
        let confirmed = Arc::default();
        let inner = Inner { settings, openai: None, anthropic: None, bedrock: None, known, confirmed };
        Self { inner: Arc::new(inner) }
    }

    /// The same, with real providers.
    ///
    /// # Errors
    /// A URL that cannot be one.
    pub fn with_providers(self, providers: Providers) -> Result<Self, BadEndpoint> {
        let inner = Inner {
            settings: self.inner.settings.clone(),
            openai: providers.openai.map(OpenAiChat::new).transpose()?,
            anthropic: providers.anthropic.map(AnthropicMessages::new).transpose()?,
            bedrock: providers.bedrock.map(BedrockConverse::new),
            known: providers.known,
            confirmed: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The names of the providers that can be used, for people.
    pub fn configured(&self) -> Vec<String> {
        let mut names = vec![replay::NAME.to_owned()];
        names.extend(self.inner.openai.as_ref().map(|_| openai_chat::NAME.to_owned()));
        names.extend(self.inner.anthropic.as_ref().map(|_| anthropic_messages::NAME.to_owned()));
        names.extend(self.inner.bedrock.as_ref().map(|_| bedrock_converse::NAME.to_owned()));
        names
    }

    /// The provider of a model, with the provider's own name of it.
    fn provider<'a>(&self, model: &'a str) -> Result<(Provider<'_>, &'a str), ModelError> {
        let missing =
            |what: &str| Err(ModelError::NotConfigured(format!("{model} needs {what}, which is not set")));
        let Some((provider, name)) = model.split_once('/').filter(|(_, name)| !name.is_empty()) else {
            let why = format!("{model:?} is not a model's name: it has the form provider/model");
            return Err(ModelError::NotConfigured(why));
        };
        match provider {
            replay::NAME => Ok((Provider::Replay(&self.inner.settings.replay), name)),
            openai_chat::NAME => match &self.inner.openai {
                Some(openai) => Ok((Provider::OpenAi(openai), name)),
                None => missing("OPENAI_API_KEY or OPENAI_BASE_URL"),
            },
            anthropic_messages::NAME => match &self.inner.anthropic {
                Some(anthropic) => Ok((Provider::Anthropic(anthropic), name)),
                None => missing("ANTHROPIC_API_KEY"),
            },
            bedrock_converse::NAME => match &self.inner.bedrock {
                Some(bedrock) => Ok((Provider::Bedrock(bedrock), name)),
                None => missing("PVM_BEDROCK_REGION"),
            },
            _ => {
                let known = PROVIDERS.join(", ");
                let why = format!("there is no provider {provider:?}; there are {known}");
                Err(ModelError::NotConfigured(why))
            }
        }
    }
}

enum Provider<'a> {
    Replay(&'a Replay),
    OpenAi(&'a OpenAiChat),
    Anthropic(&'a AnthropicMessages),
    Bedrock(&'a BedrockConverse),
}

impl Provider<'_> {
    /// Why the provider does not have a model, where it says so. Recordings are found by more than their name, and
    /// Bedrock's runtime has no such question.
    async fn denies(&self, name: &str) -> Option<String> {
        match self {
            Self::OpenAi(openai) => openai.denies(name).await,
            Self::Anthropic(anthropic) => anthropic.denies(name).await,
            Self::Replay(_) | Self::Bedrock(_) => None,
        }
    }

    async fn call(
        &self,
        name: &str,
        request: &ModelRequest,
        text: &mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        match self {
            Self::Replay(replay) => replay.call(request, text).await,
            Self::OpenAi(openai) => openai.call(name, request, text).await,
            Self::Anthropic(anthropic) => anthropic.call(name, request, text).await,
            Self::Bedrock(bedrock) => bedrock.call(name, request, text).await,
        }
    }
}

impl KnowModels for Models {
    fn default_model(&self) -> &str {
        &self.inner.settings.default_model
    }

    fn facts(&self, model: &str) -> Result<ModelFacts, ModelError> {
        Ok(match self.provider(model)? {
            (Provider::Replay(_), _) => replay::FACTS,
            _ => self.inner.known.facts(model),
        })
    }

    async fn confirm(&self, model: &str) -> Result<(), ModelError> {
        let confirmed = || self.inner.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if confirmed().contains(model) {
            return Ok(());
        }
        let (provider, name) = self.provider(model)?;
        if let Some(why) = provider.denies(name).await {
            let why =
                format!("{} does not know the model {name}: {why}", model.split('/').next().unwrap_or(model));
            return Err(ModelError::NotConfigured(why));
        }
        confirmed().insert(model.to_owned());
        Ok(())
    }
}

impl CallModel for Models {
    async fn call(
        &self,
        request: &ModelRequest,
        text: mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        let (provider, name) = self.provider(&request.model)?;
        let request = without_tools::readable(request);
        let mut answer = tries::with_short_waits(|| provider.call(name, &request, &text)).await?;
        self.inner.known.price(&request.model, &mut answer.usage);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> Models {
        Models::new(ModelSettings { default_model: "replay/demo".to_owned(), replay: Replay::default() })
    }

    #[test]
    fn a_model_that_cannot_be_used_is_refused_with_what_is_missing() {
        let why = |model: &str| models().facts(model).unwrap_err().to_string();
        assert!(models().facts("replay/demo").is_ok());
        assert!(why("openai/gpt-5").contains("OPENAI_API_KEY"));
        assert!(why("anthropic/x").contains("ANTHROPIC_API_KEY"));
        assert!(why("bedrock/x").contains("PVM_BEDROCK_REGION"));
        assert!(why("nobody/x").contains("there are replay, openai, anthropic, bedrock"));
        assert!(why("gpt-5").contains("provider/model"));
    }

    #[test]
    fn what_is_configured_is_told_without_keys() {
        let key = ProviderKey::new("hush");
        let anthropic = AnthropicSettings {
            base_url: ANTHROPIC_URL.to_owned(),
            key: key.clone(),
            version: ANTHROPIC_VERSION.to_owned(),
        };
        let openai = OpenAiSettings { base_url: "http://127.0.0.1:9/v1".to_owned(), key: Some(key) };
        let providers =
            Providers { openai: Some(openai), anthropic: Some(anthropic), ..Providers::default() };
        let models = models().with_providers(providers).unwrap();
        assert_eq!(models.configured(), ["replay", "openai", "anthropic"]);
        assert!(!format!("{models:?}").contains("hush"));
    }
}
