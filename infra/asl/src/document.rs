//! A JSON value together with its text, so that it is serialised once for its size, the store and the
//! history.

use std::sync::Arc;

use serde_json::Value;

use crate::failure::Failure;
use crate::limits;

/// A value that travels between states.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) value: Arc<Value>,
    pub(crate) text: Arc<str>,
}

impl Document {
    /// Takes a value that has a size limit; `what` names it in the error.
    pub(crate) fn new(value: Value, what: &str) -> Result<Self, Failure> {
        let text = value.to_string();
        if text.len() > limits::MAX_PAYLOAD_BYTES {
            return Err(Failure::too_large(what, text.len()));
        }
        Ok(Self { value: Arc::new(value), text: text.into() })
    }

    /// Takes text out of the store or from a caller, after its size was checked.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let value = serde_json::from_str(text)?;
        Ok(Self { value: Arc::new(value), text: text.into() })
    }
}
