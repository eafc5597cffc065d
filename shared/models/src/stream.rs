//! Answers that come as server-sent events, piece by piece.

use pvm_application::ports_model::{ModelAnswer, ModelError};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::sse::Decoder;

/// Puts an answer together.
pub(crate) trait Gather {
    /// Takes the data of an event; answers the text that it brings.
    fn take(&mut self, data: &str) -> Result<String, ModelError>;
    /// Whether nothing more of use can come.
    fn is_over(&self) -> bool;
    /// The answer. Broken where the stream ended too early.
    fn finish(self) -> Result<ModelAnswer, ModelError>;
}

/// Reads a stream to the end of its answer, and passes the text on as it comes.
pub(crate) async fn read<G: Gather>(
    mut response: reqwest::Response,
    mut answer: G,
    text: &mpsc::Sender<String>,
) -> Result<ModelAnswer, ModelError> {
    let mut decoder = Decoder::default();
    loop {
        let bytes = match response.chunk().await {
            Ok(Some(bytes)) => bytes,
            // Some servers close without a last event; whether the answer is whole is told by the rest of it.
            Ok(None) => return answer.finish(),
            Err(_) => return Err(ModelError::Broken("the stream broke off".to_owned())),
        };
        let events = decoder.feed(&bytes);
        for event in events.map_err(|_| ModelError::Broken("the stream has an endless line".to_owned()))? {
            let piece = answer.take(&event.data)?;
            if !piece.is_empty() {
                // Nobody listens any more: the caller will drop this call.
                drop(text.send(piece).await);
            }
            if answer.is_over() {
                return answer.finish();
            }
        }
    }
}

/// An event's data as JSON.
pub(crate) fn json(data: &str) -> Result<Value, ModelError> {
    serde_json::from_str(data)
        .map_err(|error| ModelError::Broken(format!("a piece of the stream is not JSON: {error}")))
}
