//! Starting a Lambda function: its settings, its logs, and the adapters that it needs, each made once and kept for the
//! life of the process. What a program asks for here is what its role must allow.

use pvm_application::error::AppResult;
use pvm_application::signing;
use pvm_application::store::ReadStore;
use pvm_aws::clients::{self, Base, ClientSettings};
use pvm_aws::{Dynamo, MachineNames, Objects, Tables, Workflows};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cors::Cors;
use crate::reply::Reply;
use crate::settings::{BadSettings, Secret, Settings, required};
use crate::signer::Signer;
use crate::step::StepError;
use crate::{http, logging, step};

/// What `main` of a function returns.
pub type Outcome = Result<(), lambda_http::Error>;

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
        Ok(forever(Dynamo::new(self.base.dynamodb(), Tables { app, events })))
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
        http::run_http_streaming(self.name, Cors::new(&self.settings.cors_origins), handler).await
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
