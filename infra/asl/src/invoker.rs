//! The door to the functions that Task states call.

use std::future::Future;

use futures::future::BoxFuture;
use serde_json::Value;

/// Why a function did not return a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error_type}: {message}")]
pub struct InvokeError {
    /// The error's name as `ErrorEquals` sees it (a Lambda's `errorType`), such as `Transient`.
    pub error_type: String,
    /// A sentence for people. It is stored in the history, so it must not hold a secret.
    pub message: String,
}

impl InvokeError {
    /// An error by name.
    pub fn new(error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), message: message.into() }
    }
}

/// Calls functions by name, the way Step Functions invokes Lambdas.
///
/// A call may be repeated: after a retry, and after a crash of this process during the call. It runs on
/// when the state that made it has timed out or the execution was stopped, as a Lambda does.
pub trait Invoker: Send + Sync + 'static {
    /// Calls the function and returns its JSON result.
    ///
    /// # Errors
    /// The function's own error, or `Lambda.*` names when there is no such function.
    fn invoke(
        &self,
        function_name: &str,
        payload: Value,
    ) -> impl Future<Output = Result<Value, InvokeError>> + Send;
}

/// [`Invoker`] behind a pointer.
pub(crate) trait DynInvoker: Send + Sync + 'static {
    fn invoke_boxed<'a>(
        &'a self,
        function_name: &'a str,
        payload: Value,
    ) -> BoxFuture<'a, Result<Value, InvokeError>>;
}

impl<T: Invoker> DynInvoker for T {
    fn invoke_boxed<'a>(
        &'a self,
        function_name: &'a str,
        payload: Value,
    ) -> BoxFuture<'a, Result<Value, InvokeError>> {
        Box::pin(self.invoke(function_name, payload))
    }
}
