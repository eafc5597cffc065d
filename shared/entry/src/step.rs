//! Steps of the state machines: errors with the names that the machines retry by.

use pvm_application::error::{AppError, ErrorCode};
use pvm_application::store::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a step failed, as `ErrorEquals` of the state machines names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum StepErrorName { $($(#[$doc])* $name,)* }
        impl StepErrorName {
            /// Every name.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The name as it crosses the wire.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => stringify!($name)),* } }
        }
    };
}

names! {
    /// Something was away for a moment: tried again soon.
    Transient,
    /// Somebody asked to slow down: tried again later.
    Throttled,
    /// The VM is not there or not ready: tried again later.
    VmUnavailable,
    /// The model's provider is overloaded: tried again after a longer wait.
    ModelOverloaded,
    /// Trying again cannot help.
    Terminal,
    /// Not a fault: a tool call goes on after the first look, and the workflow comes back to it.
    ToolRunning,
}

/// A step's failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .name.as_str())]
pub struct StepError {
    /// What the state machine goes by.
    pub name: StepErrorName,
    /// What happened, for people.
    pub message: String,
}

impl StepError {
    /// A failure.
    pub fn new(name: StepErrorName, message: impl Into<String>) -> Self {
        Self { name, message: message.into() }
    }

    /// A failure that trying again cannot mend.
    pub fn terminal(message: impl Into<String>) -> Self {
        Self::new(StepErrorName::Terminal, message)
    }
}

impl From<AppError> for StepError {
    fn from(error: AppError) -> Self {
        let store = error.source.as_ref().and_then(|source| source.downcast_ref::<StoreError>());
        let name = match (error.code, store) {
            (_, Some(StoreError::Throttled(_))) | (ErrorCode::LimitReached, _) => StepErrorName::Throttled,
            // Somebody was faster: the step reads again when it is tried again.
            (_, Some(StoreError::Conflict { .. } | StoreError::Unavailable(_))) => StepErrorName::Transient,
            (ErrorCode::Unavailable, _) => StepErrorName::Transient,
            (ErrorCode::VmNotReady, _) => StepErrorName::VmUnavailable,
            _ => StepErrorName::Terminal,
        };
        // The workflow gets the sentence for people; what was behind it is told here or nowhere.
        if let Some(source) = &error.source {
            tracing::warn!(error.name = name.as_str(), error.cause = %format!("{source:#}"), "a step failed: {}", error.detail);
        }
        Self { name, message: error.detail }
    }
}

impl From<StepError> for lambda_runtime::Diagnostic {
    fn from(error: StepError) -> Self {
        Self { error_type: error.name.as_str().to_owned(), error_message: error.message }
    }
}

/// Calls a step with the payload that a state machine sends.
///
/// # Errors
/// Of the step; `Terminal` for a payload that is not its input.
pub async fn call_step<I, O, Fut>(payload: Value, step: impl FnOnce(I) -> Fut) -> Result<Value, StepError>
where
    I: DeserializeOwned,
    O: Serialize,
    Fut: Future<Output = Result<O, StepError>>,
{
    let input = serde_path_to_error::deserialize(payload)
        .map_err(|error| StepError::terminal(format!("the step's input is not as agreed: {error}")))?;
    let output = step(input).await?;
    serde_json::to_value(output).map_err(|error| StepError::terminal(format!("the step's output: {error}")))
}

/// Serves a step as a Lambda function.
///
/// # Errors
/// The runtime's.
pub async fn run_step<I, O, F, Fut>(name: &'static str, step: F) -> Result<(), lambda_runtime::Error>
where
    I: DeserializeOwned,
    O: Serialize,
    F: Fn(I) -> Fut,
    Fut: Future<Output = Result<O, StepError>> + Send,
{
    let step = &step;
    lambda_runtime::run(lambda_runtime::service_fn(move |event: lambda_runtime::LambdaEvent<Value>| {
        let span =
            tracing::info_span!("step", "function.name" = name, "request.id" = event.context.request_id);
        async move {
            let started = std::time::Instant::now();
            // Boxed: a step's state can be deep, and every program would have to lay it out whole.
            let outcome = Box::pin(call_step(event.payload, step)).await;
            let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
            match &outcome {
                Ok(_) => tracing::info!(duration_ms, "step done"),
                Err(error) => {
                    tracing::warn!(duration_ms, name = error.name.as_str(), "step failed: {}", error.message);
                }
            }
            outcome
        }
        .instrument(span)
    }))
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_gets_the_name_that_its_retry_goes_by() {
        let name = |error: AppError| StepError::from(error).name;
        assert_eq!(name(AppError::new(ErrorCode::VmNotReady, "x")), StepErrorName::VmUnavailable);
        assert_eq!(name(StoreError::Throttled(anyhow::anyhow!("x")).into()), StepErrorName::Throttled);
        assert_eq!(name(StoreError::Unavailable(anyhow::anyhow!("x")).into()), StepErrorName::Transient);
        assert_eq!(name(AppError::new(ErrorCode::Conflict, "taken over")), StepErrorName::Terminal);
        assert_eq!(name(AppError::not_found("project")), StepErrorName::Terminal);
    }

    #[tokio::test]
    async fn a_payload_of_another_shape_is_terminal() {
        let step = |n: u32| async move { Ok(n + 1) };
        assert_eq!(call_step(1.into(), step).await, Ok(2.into()));
        assert_eq!(call_step("x".into(), step).await.unwrap_err().name, StepErrorName::Terminal);
    }
}
