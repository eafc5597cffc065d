//! The step functions as the engine calls them: in process instead of as Lambdas, with the same time limits.

use std::sync::Arc;
use std::time::Duration;

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
        // Not in a task of its own: a step that is too late, or whose engine stops, is gone when this is dropped, so that
        // it never runs beside its own retry.
        let seconds = step.info.timeout_secs;
        let call = (step.call)(Arc::clone(&self.app), payload);
        match tokio::time::timeout(Duration::from_secs(seconds), call).await {
            Ok(answer) => answer.map_err(|error| InvokeError::new(error.name.as_str(), error.message)),
            // As Lambda names it.
            Err(_) => {
                Err(InvokeError::new("Sandbox.Timedout", format!("Task timed out after {seconds} seconds")))
            }
        }
    }
}
