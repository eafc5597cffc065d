//! The step functions as the engine calls them: in process instead of as Lambdas, with the same time limits.

use std::sync::Arc;

use pvm_asl::{InvokeError, Invoker};
use pvm_workflow::steps;
use serde_json::Value;

use crate::App;

/// Calls steps by name.
#[derive(Debug)]
pub struct Functions {
    app: Arc<App>,
}

impl Functions {
    /// The steps over these adapters.
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

impl Invoker for Functions {
    async fn invoke(&self, function_name: &str, payload: Value) -> Result<Value, InvokeError> {
        let Some(step) = steps::find(function_name) else {
            let message = format!("there is no function {function_name}");
            return Err(InvokeError::new("Lambda.ResourceNotFoundException", message));
        };
        // A task of its own, as a Lambda runs on its own: a panic is that function's failure, not the engine's.
        match tokio::spawn((step.call)(Arc::clone(&self.app), payload)).await {
            Ok(answer) => answer.map_err(|error| InvokeError::new(error.name.as_str(), error.message)),
            Err(panic) => Err(InvokeError::new("Lambda.Unknown", panic.to_string())),
        }
    }
}
