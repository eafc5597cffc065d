//! The same request in the same bytes. The SDK keeps free-form JSON in hash maps, whose order differs from call to call;
//! the provider's cache takes a prompt by its exact beginning, and tool schemas are the beginning.

use aws_sdk_bedrockruntime::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_bedrockruntime::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_bedrockruntime::error::BoxError;
use aws_smithy_types::body::SdkBody;
use serde_json::Value;

/// Puts the fields of every object of a request into the order of their names.
#[derive(Debug)]
pub(super) struct StableOrder;

impl Intercept for StableOrder {
    fn name(&self) -> &'static str {
        "StableOrder"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let Some(bytes) = request.body().bytes() else { return Ok(()) };
        let ordered = ordered(bytes)?;
        request.headers_mut().insert("content-length", ordered.len().to_string());
        *request.body_mut() = SdkBody::from(ordered);
        Ok(())
    }
}

fn ordered(bytes: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    value.sort_all_objects();
    serde_json::to_vec(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_ordered_at_every_depth_and_lists_are_left_alone() {
        let ordered = ordered(br#"{"b":[{"z":1,"a":2}],"a":["y","x"]}"#).unwrap();
        assert_eq!(ordered, br#"{"a":["y","x"],"b":[{"a":2,"z":1}]}"#);
    }
}
