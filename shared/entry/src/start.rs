//! Starting a Lambda function: its settings, its logs, and the adapters that it needs, each made once and kept for the
//! life of the process. What a program asks for here is what its role must allow.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_application::error::AppResult;
use pvm_application::signing;
use pvm_application::store::ReadStore;
use pvm_aws::clients::{self, Base, ClientSettings};
use pvm_aws::{
    Dynamo, DynamoSettings, MachineNames, ManagedSecrets, Objects, SaveQueue, Tables, Workflows,
    install_secrets,
};
use pvm_e2b_wire::secret::Secret as VmSecret;
use pvm_models::{Library, ModelSettings, Models, Providers, Replay};
use pvm_sandbox::VmClient;
use pvm_tools::Registry;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cors::Cors;
use crate::providers::{bedrock, key_table, providers};
use crate::reply::Reply;
use crate::request::TakenWhole;
use crate::settings::{BadSettings, Secret, Settings, required};
use crate::signer::Signer;
use crate::step::StepError;
use crate::{System, http, logging, step, vm_provider};

/// What `main` of a function returns.
pub type Outcome = Result<(), lambda_http::Error>;

/// The tools of agents over a function's adapters.
pub type Tools = Registry<Dynamo, Workflows, VmClient, System>;

/// A function that is starting.
#[derive(Debug)]
pub struct Start {
    /// Its settings.
    pub settings: Settings,
    name: &'static str,
    base: Base,
}

/// Lives as long as the process: a function's adapters are made once, and handlers borrow them.
fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

impl Start {
    /// Reads the settings, starts the logs and prepares the AWS clients of the function `name`.
    ///
    /// # Errors
    /// A variable that cannot be used.
    pub async fn new(name: &'static str) -> Result<Self, lambda_http::Error> {
        let settings = Settings::from_env()?;
        logging::start(&settings)?;
        let client = ClientSettings {
            dynamodb_url: settings.dynamodb_url.clone(),
            s3_url: settings.s3_url.clone(),
            sfn_url: settings.sfn_url.clone(),
            ..ClientSettings::default()
        };
        Ok(Self { settings, name, base: clients::load(client).await })
    }

    /// The records and events.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn store(&self) -> Result<&'static Dynamo, BadSettings> {
        let app = required(self.settings.table_app.as_ref(), "PVM_TABLE_APP")?.clone();
        let events = required(self.settings.table_events.as_ref(), "PVM_TABLE_EVENTS")?.clone();
        let poll_interval = Some(Duration::from_millis(self.settings.poll_millis));
        let settings = DynamoSettings { poll_interval, ..DynamoSettings::default() };
        let tables = Tables { app, events };
        let store = forever(Dynamo::with_settings(self.base.dynamodb(), tables, settings));
        if self.settings.early_connection {
            // The first TLS connection costs most of a cold start; any read opens it, beside the rest of the start.
            tokio::spawn(async {
                if let Err(error) = signing::load(store).await {
                    tracing::debug!(%error, "the early connection found nothing");
                }
            });
        }
        Ok(store)
    }

    /// The records and events, to read only.
    ///
    /// # Errors
    /// As [`Start::store`].
    pub fn read_store(&self) -> Result<&'static (impl ReadStore + Clone + use<>), BadSettings> {
        self.store()
    }

    /// The file objects.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn objects(&self) -> Result<&'static Objects, BadSettings> {
        let bucket = required(self.settings.bucket.as_ref(), "PVM_BUCKET")?;
        Ok(forever(Objects::new(self.base.s3(), bucket)))
    }

    /// The workflow engine.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn workflow(&self) -> Result<&'static Workflows, BadSettings> {
        let settings = &self.settings;
        let region =
            self.base.region().ok_or_else(|| BadSettings(vec!["AWS_REGION is not set".to_owned()]))?;
        let names = MachineNames {
            partition: settings.partition.clone(),
            region: region.to_owned(),
            account: required(settings.account.as_ref(), "PVM_ACCOUNT")?.clone(),
            run_turn: settings.machine_run_turn.clone(),
            vm_lifecycle: settings.machine_vm_lifecycle.clone(),
        };
        Ok(forever(Workflows::new(self.base.sfn(), names)))
    }

    /// The VMs. The key comes from `E2B_API_KEY`, or from the secret that `PVM_E2B_KEY_SECRET` names.
    ///
    /// # Errors
    /// Names the variable that is missing; the secret cannot be read.
    pub async fn vm(&self) -> Result<&'static VmClient, lambda_http::Error> {
        let settings = &self.settings;
        let key = if let Some(key) = &settings.e2b_api_key {
            key.reveal().to_owned()
        } else {
            let secret = required(settings.e2b_key_secret.as_ref(), "PVM_E2B_KEY_SECRET")?;
            install_secrets::read(&self.base.secretsmanager(), secret).await?
        };
        Ok(forever(VmClient::new(vm_provider(settings, VmSecret::new(key)))?))
    }

    /// Values of projects' secrets.
    pub fn secrets(&self) -> &'static ManagedSecrets {
        forever(ManagedSecrets::new(self.base.secretsmanager(), &self.settings.deployment_id))
    }

    /// The models.
    ///
    /// # Errors
    /// Settings of a provider that cannot be used.
    pub async fn models(&self) -> Result<&'static Models, lambda_http::Error> {
        let replay = Replay { library: Library::shipped()?, pace: Duration::ZERO };
        let default_model = self.settings.default_model.clone();
        let keys = self.model_keys().await?;
        let models = Models::new(ModelSettings { default_model, replay });
        let bedrock = bedrock(&self.settings, &self.base);
        let providers = Providers { bedrock, ..providers(&self.settings, &keys)? };
        Ok(forever(models.with_providers(providers)?))
    }

    /// Keys of model providers by reference: those of the parameter go before those of the secret.
    async fn model_keys(&self) -> Result<BTreeMap<String, String>, lambda_http::Error> {
        let mut keys = BTreeMap::new();
        if let Some(secret) = &self.settings.model_keys_secret
            && let Some(text) = install_secrets::read_if_set(&self.base.secretsmanager(), secret).await?
        {
            keys = key_table("PVM_MODEL_KEYS_SECRET", &text)?;
        }
        if let Some(parameter) = &self.settings.model_keys_parameter {
            let text = self.base.parameters()?.read(parameter).await?;
            keys.extend(key_table("PVM_MODEL_KEYS_PARAMETER", &text)?);
        }
        Ok(keys)
    }

    /// The tools of agents, over adapters of this function.
    pub fn tools(&self, store: &Dynamo, workflow: &Workflows, vm: &VmClient) -> &'static Tools {
        forever(Registry::new(store.clone(), workflow.clone(), vm.clone(), System))
    }

    /// Who saves workspaces: a queue.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn saver(&self) -> Result<&'static SaveQueue<System>, BadSettings> {
        let url = required(self.settings.save_queue_url.as_ref(), "PVM_SAVE_QUEUE_URL")?;
        Ok(forever(SaveQueue::new(self.base.sqs(), url, System)))
    }

    /// Signs cursors and tickets, with the install's key or the one of `PVM_SIGNING_KEY`.
    ///
    /// # Errors
    /// Of the store, or a key that is too short.
    pub async fn signer(&self, store: &impl ReadStore) -> Result<&'static Signer, lambda_http::Error> {
        let key = match &self.settings.signing_key {
            Some(key) => key.clone(),
            None => Secret::new(signing::load(store).await?),
        };
        Ok(forever(Signer::new(&key)?))
    }

    /// The settings, for the life of the process.
    pub fn settings(&self) -> &'static Settings {
        forever(self.settings.clone())
    }

    /// Serves a route whose answers are sent whole.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn http<F, Fut>(self, handler: F) -> Outcome
    where
        F: Fn(lambda_http::Request) -> Fut,
        Fut: Future<Output = AppResult<Reply>> + Send,
    {
        http::run_http(self.name, Cors::new(&self.settings.cors_origins), handler).await
    }

    /// Serves a route whose answers are sent as they come.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn http_streaming<F, Fut>(self, handler: F) -> Outcome
    where
        F: Fn(lambda_http::Request) -> Fut,
        Fut: Future<Output = AppResult<Reply>> + Send,
    {
        let cors = Cors::new(&self.settings.cors_origins);
        if self.settings.stream_responses {
            http::run_http_streaming(self.name, cors, handler).await
        } else {
            let whole = |mut request: lambda_http::Request| {
                request.extensions_mut().insert(TakenWhole);
                handler(request)
            };
            http::run_http(self.name, cors, whole).await
        }
    }

    /// Serves a step of a state machine.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn step<I, O, F, Fut>(self, handler: F) -> Outcome
    where
        I: DeserializeOwned,
        O: Serialize,
        F: Fn(I) -> Fut,
        Fut: Future<Output = Result<O, StepError>> + Send,
    {
        step::run_step(self.name, handler).await
    }
}
