//! Anthropic's Messages API.

use std::collections::BTreeMap;

use pvm_application::ports_model::{
    Block, ModelAnswer, ModelError, ModelRequest, OpaqueBlock, Role, Stop, TokenUsage, WantedCall,
};
use pvm_domain::conversation::BlockPlace;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::claude;
use crate::endpoint::{self, ANSWER_BYTES, BadEndpoint, ProviderKey, tool_id};
use crate::stream::{self, Gather};

/// The name of this provider.
pub(crate) const NAME: &str = "anthropic";
/// Where Anthropic itself is.
pub const ANTHROPIC_URL: &str = "https://api.anthropic.com";
/// The version of the API that is asked for unless told otherwise.
pub const ANTHROPIC_VERSION: &str = "2026-10-21";
/// From this version on, a request that names a sampling parameter is refused; newer models refuse it in any version.
const NO_SAMPLING_FROM: &str = "2026-10-21";

/// Where, as whom, and in which version it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnthropicSettings {
    /// The URL without `/v1`.
    pub base_url: String,
    /// The key.
    pub key: ProviderKey,
    /// The value of `anthropic-version`.
    pub version: String,
}

/// The provider, ready to be called.
#[derive(Debug, Clone)]
pub(crate) struct AnthropicMessages {
    settings: AnthropicSettings,
    client: reqwest::Client,
}

impl AnthropicMessages {
    pub(crate) fn new(settings: AnthropicSettings) -> Result<Self, BadEndpoint> {
        let client = endpoint::client(&settings.base_url)?;
        Ok(Self { settings, client })
    }

    /// Why the provider does not have `model`, where it says so.
    pub(crate) async fn denies(&self, model: &str) -> Option<String> {
        let url = endpoint::model_url(&self.settings.base_url, "v1/models", model)?;
        endpoint::denies(self.signed(self.client.get(url))).await
    }

    fn signed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request
            .header("anthropic-version", &self.settings.version)
            .header("x-api-key", self.settings.key.reveal())
    }

    pub(crate) async fn call(
        &self,
        model: &str,
        request: &ModelRequest,
        text: &mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        let takes_temperature =
            self.settings.version.as_str() < NO_SAMPLING_FROM && claude::takes_temperature(model);
        let call = self.client.post(endpoint::join(&self.settings.base_url, "v1/messages"));
        let call = self.signed(call).json(&body(model, request, takes_temperature));
        stream::read(endpoint::send(NAME, call).await?, Gathered::default(), text).await
    }
}

fn body(model: &str, request: &ModelRequest, takes_temperature: bool) -> Value {
    let mark = json!({"type": "ephemeral"});
    let mut body = json!({
        "model": model,
        "max_tokens": request.max_tokens,
        "stream": true,
        "system": [{"type": "text", "text": request.system, "cache_control": mark}],
        "messages": request.messages.iter().filter_map(message).collect::<Vec<Value>>(),
    });
    mark_history(&mut body, &mark);
    if let Some(temperature) = request.temperature.filter(|_| takes_temperature) {
        body["temperature"] = json!(temperature);
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({"name": tool.name, "description": tool.description, "input_schema": tool.input_schema})
        });
        body["tools"] = tools.collect();
    }
    body
}

/// The history is cached up to the block before its last: the last tells the state of the workspace now and changes.
fn mark_history(body: &mut Value, mark: &Value) {
    let Some(messages) = body["messages"].as_array_mut() else { return };
    let Some(blocks) = messages.last_mut().and_then(|last| last["content"].as_array_mut()) else { return };
    if let Some(block) = blocks.len().checked_sub(2).and_then(|at| blocks.get_mut(at)) {
        block["cache_control"] = mark.clone();
    }
}

fn message(message: &pvm_application::ports_model::ModelMessage) -> Option<Value> {
    let blocks: Vec<Value> = message.blocks.iter().filter_map(block).collect();
    let role = match message.role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    (!blocks.is_empty()).then(|| json!({"role": role, "content": blocks}))
}

fn block(block: &Block) -> Option<Value> {
    Some(match block {
        // An empty text block is refused.
        Block::Text { text } if text.trim().is_empty() => return None,
        Block::Text { text } => json!({"type": "text", "text": text}),
        Block::ToolUse { id, name, arguments } => {
            json!({"type": "tool_use", "id": tool_id(id), "name": name, "input": arguments})
        }
        Block::ToolResult { id, text, is_error } => {
            json!({"type": "tool_result", "tool_use_id": tool_id(id), "content": text, "is_error": is_error})
        }
        Block::Opaque { provider, value } if provider == NAME => value.clone(),
        Block::Opaque { .. } => return None,
    })
}

#[derive(Debug)]
enum Part {
    /// So many bytes of the text.
    Text(usize),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    Opaque(Value),
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
struct Gathered {
    text: String,
    parts: BTreeMap<u64, Part>,
    argument_bytes: usize,
    stop: Option<String>,
    ended: bool,
    usage: TokenUsage,
}

impl Gather for Gathered {
    fn take(&mut self, data: &str) -> Result<String, ModelError> {
        let event = &stream::json(data)?;
        let index = event["index"].as_u64().unwrap_or(0);
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.count(&event["message"]["usage"]),
            "content_block_start" => return Ok(self.start(index, &event["content_block"])),
            "content_block_delta" => return Ok(self.delta(index, &event["delta"])),
            "message_delta" => {
                self.stop = event["delta"]["stop_reason"].as_str().map(str::to_owned);
                self.count(&event["usage"]);
            }
            "message_stop" => self.ended = true,
            "error" => return Err(stream_error(event)),
            _ => {}
        }
        Ok(String::new())
    }

    fn is_over(&self) -> bool {
        self.ended || self.is_too_long()
    }

    fn finish(self) -> Result<ModelAnswer, ModelError> {
        let too_long = self.is_too_long();
        let stop = match self.stop.as_deref() {
            _ if too_long => Stop::MaxTokens,
            Some("max_tokens" | "model_context_window_exceeded") => Stop::MaxTokens,
            Some("tool_use") => Stop::ToolCalls,
            Some("refusal") => Stop::Refusal,
            Some(_) => Stop::End,
            None => return Err(ModelError::Broken("the stream ended before the answer did".to_owned())),
        };
        let mut calls = Vec::new();
        let mut opaque = Vec::new();
        let mut text_before = 0;
        for part in self.parts.into_values() {
            match part {
                Part::Call { id, name, arguments } => {
                    let arguments = endpoint::arguments(&arguments);
                    calls.push(WantedCall { provider_id: id, name, arguments });
                }
                Part::Opaque(value) => {
                    let after = BlockPlace { text: text_before, calls: calls.len() };
                    opaque.push(OpaqueBlock { after, value });
                }
                Part::Text(bytes) => text_before += bytes,
            }
        }
        if too_long {
            calls.clear();
        }
        Ok(ModelAnswer { text: self.text, calls, opaque, stop, usage: self.usage })
    }
}

impl Gathered {
    /// Input comes first, output grows; caches are told apart from the input.
    fn count(&mut self, usage: &Value) {
        let number = |name: &str| usage[name].as_u64();
        let cache_read = number("cache_read_input_tokens").unwrap_or(self.usage.cache_read);
        let cache_write = number("cache_creation_input_tokens").unwrap_or(self.usage.cache_write);
        let fresh = self.usage.input - self.usage.cache_read - self.usage.cache_write;
        self.usage = TokenUsage {
            input: number("input_tokens").unwrap_or(fresh) + cache_read + cache_write,
            output: number("output_tokens").unwrap_or(self.usage.output),
            cache_read,
            cache_write,
            cost_microusd: 0,
        };
    }

    fn start(&mut self, index: u64, block: &Value) -> String {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str().unwrap_or_default() {
            "text" => {
                self.parts.insert(index, Part::Text(0));
                return self.say(index, &text("text"));
            }
            "tool_use" => {
                let call = Part::Call { id: text("id"), name: text("name"), arguments: String::new() };
                self.parts.insert(index, call);
            }
            _ => {
                self.parts.insert(index, Part::Opaque(block.clone()));
            }
        }
        String::new()
    }

    fn say(&mut self, index: u64, piece: &str) -> String {
        if let Part::Text(bytes) = self.parts.entry(index).or_insert(Part::Text(0)) {
            *bytes += piece.len();
        }
        self.text.push_str(piece);
        piece.to_owned()
    }

    fn delta(&mut self, index: u64, delta: &Value) -> String {
        let text = |name: &str| delta[name].as_str().unwrap_or_default();
        match (delta["type"].as_str().unwrap_or_default(), self.parts.get_mut(&index)) {
            ("text_delta", _) => return self.say(index, text("text")),
            ("input_json_delta", Some(Part::Call { arguments, .. })) => {
                arguments.push_str(text("partial_json"));
                self.argument_bytes += text("partial_json").len();
            }
            // Reasoning and its signature go back as they came.
            ("thinking_delta", Some(Part::Opaque(block))) => append(block, "thinking", text("thinking")),
            ("signature_delta", Some(Part::Opaque(block))) => append(block, "signature", text("signature")),
            _ => {}
        }
        String::new()
    }

    fn is_too_long(&self) -> bool {
        self.text.len() > ANSWER_BYTES || self.argument_bytes > ANSWER_BYTES
    }
}

fn append(block: &mut Value, field: &str, more: &str) {
    let before = block[field].as_str().unwrap_or_default().to_owned();
    block[field] = json!(before + more);
}

/// An error in the middle of a stream.
fn stream_error(event: &Value) -> ModelError {
    let told = endpoint::told(event);
    match told.kind.as_str() {
        "overloaded_error" | "api_error" | "timeout_error" => ModelError::Overloaded { retry_after: None },
        "rate_limit_error" => ModelError::RateLimited { retry_after: None },
        _ if endpoint::is_overflow(&told) => ModelError::ContextOverflow,
        _ => ModelError::Broken(pvm_domain::text::head_and_tail(&told.message, 300).0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(events: &[Value]) -> Result<ModelAnswer, ModelError> {
        let mut gathered = Gathered::default();
        for event in events {
            gathered.take(&event.to_string())?;
        }
        gathered.finish()
    }

    #[test]
    fn text_calls_and_reasoning_are_put_together() {
        let answer = gather(&[
            json!({"type": "message_start", "message": {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}}),
            json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hello"}}),
            json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t1", "name": "run", "input": {}}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{\"a\":"}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
            json!({"type": "ping"}),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 30}}),
            json!({"type": "message_stop"}),
        ])
        .unwrap();
        assert_eq!((answer.text.as_str(), answer.stop), ("Hello", Stop::ToolCalls));
        assert_eq!(answer.calls[0].arguments, Ok(json!({"a": 1})));
        let value = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        assert_eq!(answer.opaque, [OpaqueBlock { after: BlockPlace::default(), value }]);
        assert_eq!((answer.usage.input, answer.usage.output, answer.usage.cache_read), (100, 30, 90));
    }

    #[test]
    fn blocks_of_its_own_are_kept_with_their_places() {
        let think = |index: u64| json!({"type": "content_block_start", "index": index, "content_block": {"type": "redacted_thinking", "data": "d"}});
        let say = |index: u64, text: &str| json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": text}});
        let call = |index: u64| json!({"type": "content_block_start", "index": index, "content_block": {"type": "tool_use", "id": "t", "name": "x"}});
        let end = json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}});
        let answer =
            gather(&[think(0), say(1, "one"), think(2), say(3, "two"), call(4), think(5), call(6), end])
                .unwrap();
        let places: Vec<_> =
            answer.opaque.iter().map(|block| (block.after.text, block.after.calls)).collect();
        assert_eq!(places, [(0, 0), (3, 0), (6, 1)]);
        assert_eq!((answer.text.as_str(), answer.calls.len()), ("onetwo", 2));
    }

    #[test]
    fn an_error_in_the_stream_is_told_by_its_kind() {
        let error = |kind: &str| gather(&[json!({"type": "error", "error": {"type": kind, "message": "m"}})]);
        assert!(matches!(error("overloaded_error"), Err(ModelError::Overloaded { .. })));
        assert!(matches!(error("strange"), Err(ModelError::Broken(_))));
        assert!(matches!(gather(&[json!({"type": "ping"})]), Err(ModelError::Broken(_))));
    }
}
