//! OpenAI's Chat Completions, which many servers speak: OpenAI itself, vLLM, llama.cpp, Ollama, OpenRouter, Bedrock's
//! compatible endpoint.

mod reasoning;

use std::collections::BTreeMap;

use pvm_application::ports_model::{
    Block, ModelAnswer, ModelError, ModelRequest, OpaqueBlock, Role, Stop, TokenUsage, WantedCall,
};
use pvm_domain::conversation::BlockPlace;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::endpoint::{self, ANSWER_BYTES, BadEndpoint, ProviderKey};
use crate::stream::{self, Gather};
use reasoning::Reasoning;

/// The name of this provider.
pub(crate) const NAME: &str = "openai";
/// Where OpenAI itself is.
pub const OPENAI_URL: &str = "https://api.openai.com/v1";

/// Where and as whom it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiSettings {
    /// The URL up to and with `/v1`.
    pub base_url: String,
    /// The key; servers on one's own machine need none.
    pub key: Option<ProviderKey>,
}

/// The provider, ready to be called.
#[derive(Debug, Clone)]
pub(crate) struct OpenAiChat {
    settings: OpenAiSettings,
    client: reqwest::Client,
}

impl OpenAiChat {
    pub(crate) fn new(settings: OpenAiSettings) -> Result<Self, BadEndpoint> {
        let client = endpoint::client(&settings.base_url)?;
        Ok(Self { settings, client })
    }

    /// Why the server does not have `model`, where it says so.
    pub(crate) async fn denies(&self, model: &str) -> Option<String> {
        let mut question = self.client.get(endpoint::model_url(&self.settings.base_url, "models", model)?);
        if let Some(key) = &self.settings.key {
            question = question.bearer_auth(key.reveal());
        }
        endpoint::denies(question).await
    }

    pub(crate) async fn call(
        &self,
        model: &str,
        request: &ModelRequest,
        text: &mpsc::Sender<String>,
    ) -> Result<ModelAnswer, ModelError> {
        let is_openai = self.settings.base_url.trim_end_matches('/') == OPENAI_URL;
        let body = body(model, request, is_openai);
        let mut call =
            self.client.post(endpoint::join(&self.settings.base_url, "chat/completions")).json(&body);
        if let Some(key) = &self.settings.key {
            call = call.bearer_auth(key.reveal());
        }
        stream::read(endpoint::send(NAME, call).await?, Gathered::default(), text).await
    }
}

fn body(model: &str, request: &ModelRequest, is_openai: bool) -> Value {
    let mut messages = vec![json!({"role": "system", "content": request.system})];
    for message in &request.messages {
        match message.role {
            Role::User => user(&message.blocks, &mut messages),
            Role::Assistant => messages.extend(assistant(&message.blocks, is_openai)),
        }
    }
    let mut body = json!({
        "model": model,
        "messages": messages,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    // OpenAI's newer models know only the one name, most other servers only the other.
    let length = if is_openai { "max_completion_tokens" } else { "max_tokens" };
    body[length] = json!(request.max_tokens);
    // Models that reason take no temperature.
    let reasons = is_openai && (model.starts_with('o') || model.starts_with("gpt-5"));
    if let Some(temperature) = request.temperature.filter(|_| !reasons) {
        body["temperature"] = json!(temperature);
    }
    if is_openai {
        body["prompt_cache_key"] =
            json!(format!("{}-{}", request.place.conversation_id, request.place.agent_id));
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            let function =
                json!({"name": tool.name, "description": tool.description, "parameters": tool.input_schema});
            json!({"type": "function", "function": function})
        });
        body["tools"] = tools.collect();
    }
    body
}

/// A user's message becomes one message per tool result, and one of all its text after them.
fn user(blocks: &[Block], messages: &mut Vec<Value>) {
    let mut texts = Vec::new();
    for block in blocks {
        match block {
            Block::ToolResult { id, text, .. } => {
                messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
            }
            Block::Text { text } => texts.push(text.as_str()),
            Block::ToolUse { .. } | Block::Opaque { .. } => {}
        }
    }
    if !texts.is_empty() {
        messages.push(json!({"role": "user", "content": texts.join("\n\n")}));
    }
}

fn assistant(blocks: &[Block], is_openai: bool) -> Option<Value> {
    let mut own = None;
    let mut texts = Vec::new();
    let mut calls = Vec::new();
    for block in blocks {
        match block {
            Block::Text { text } => texts.push(text.as_str()),
            Block::ToolUse { id, name, arguments } => {
                let function = json!({"name": name, "arguments": arguments.to_string()});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            Block::Opaque { provider, value } if provider == NAME => own = Some(value),
            Block::ToolResult { .. } | Block::Opaque { .. } => {}
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return None;
    }
    let mut message = json!({"role": "assistant", "content": Value::Null});
    if !texts.is_empty() {
        message["content"] = json!(texts.join("\n\n"));
    }
    // OpenAI itself tells no reasoning, and takes none.
    if let Some(own) = own.filter(|_| !is_openai) {
        reasoning::put_back(own, &mut message, !calls.is_empty());
    }
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    Some(message)
}

#[derive(Debug, Default, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Debug, Default, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
    #[serde(flatten)]
    reasoning: reasoning::Piece,
}

#[derive(Debug, Default, Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: Option<usize>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Debug, Default, Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    cache_write_tokens: Option<u64>,
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
struct Gathered {
    text: String,
    calls: BTreeMap<usize, (String, String, String)>,
    argument_bytes: usize,
    reasoning: Reasoning,
    finish: Option<String>,
    refused: bool,
    ended: bool,
    usage: TokenUsage,
}

impl Gather for Gathered {
    fn take(&mut self, data: &str) -> Result<String, ModelError> {
        if data.trim() == "[DONE]" {
            self.ended = true;
            return Ok(String::new());
        }
        let value = stream::json(data)?;
        if value.get("error").is_some_and(|error| !error.is_null()) {
            let told = endpoint::told(&value);
            return Err(if endpoint::is_overflow(&told) {
                ModelError::ContextOverflow
            } else {
                ModelError::Broken(pvm_domain::text::head_and_tail(&told.message, 300).0)
            });
        }
        let chunk: Chunk = serde_json::from_value(value)
            .map_err(|error| ModelError::Broken(format!("a piece of the stream is unknown: {error}")))?;
        if let Some(usage) = chunk.usage {
            let details = usage.prompt_tokens_details.unwrap_or_default();
            self.usage = TokenUsage {
                input: usage.prompt_tokens,
                output: usage.completion_tokens,
                cache_read: details.cached_tokens.unwrap_or(0),
                cache_write: details.cache_write_tokens.unwrap_or(0),
                cost_microusd: 0,
            };
        }
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(String::new()) };
        let mut piece = choice.delta.content.unwrap_or_default();
        if let Some(refusal) = choice.delta.refusal.filter(|refusal| !refusal.is_empty()) {
            self.refused = true;
            piece.push_str(&refusal);
        }
        self.text.push_str(&piece);
        self.reasoning.take(choice.delta.reasoning);
        for call in choice.delta.tool_calls.unwrap_or_default() {
            self.take_call(call);
        }
        if choice.finish_reason.is_some() {
            self.finish = choice.finish_reason;
        }
        Ok(piece)
    }

    fn is_over(&self) -> bool {
        self.ended || self.is_too_long()
    }

    fn finish(self) -> Result<ModelAnswer, ModelError> {
        let too_long = self.is_too_long();
        let stop = match self.finish.as_deref() {
            _ if self.refused => Stop::Refusal,
            _ if too_long => Stop::MaxTokens,
            Some("length") => Stop::MaxTokens,
            Some("content_filter") => Stop::Refusal,
            Some("tool_calls" | "function_call") => Stop::ToolCalls,
            Some(_) => Stop::End,
            None => return Err(ModelError::Broken("the stream ended before the answer did".to_owned())),
        };
        let calls = self.calls.into_iter().map(|(index, (id, name, text))| WantedCall {
            provider_id: if id.is_empty() { format!("call_{index}") } else { id },
            name,
            arguments: endpoint::arguments(&text),
        });
        // Calls of a cut answer are cut too: none of them is run.
        let calls = if too_long { Vec::new() } else { calls.collect() };
        let opaque = self.reasoning.kept().map(|value| OpaqueBlock { after: BlockPlace::default(), value });
        Ok(ModelAnswer {
            text: self.text,
            calls,
            opaque: opaque.into_iter().collect(),
            stop,
            usage: self.usage,
        })
    }
}

impl Gathered {
    fn take_call(&mut self, call: CallDelta) {
        // Servers that send whole calls leave the index out: each is then a call of its own.
        let index = call.index.unwrap_or_else(|| self.calls.keys().next_back().map_or(0, |last| last + 1));
        let entry = self.calls.entry(index).or_default();
        if let Some(id) = call.id.filter(|id| !id.is_empty()) {
            entry.0 = id;
        }
        let function = call.function.unwrap_or_default();
        if let Some(name) = function.name {
            entry.1.push_str(&name);
        }
        if let Some(arguments) = function.arguments {
            self.argument_bytes += arguments.len();
            entry.2.push_str(&arguments);
        }
    }

    fn is_too_long(&self) -> bool {
        self.text.len() > ANSWER_BYTES || self.argument_bytes > ANSWER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(chunks: &[Value]) -> Result<ModelAnswer, ModelError> {
        let mut gathered = Gathered::default();
        for chunk in chunks {
            gathered.take(&chunk.to_string())?;
        }
        gathered.finish()
    }

    #[test]
    fn pieces_of_text_and_calls_are_put_together() {
        let answer = gather(&[
            json!({"choices": [{"delta": {"role": "assistant", "content": "Hel"}}]}),
            json!({"choices": [{"delta": {"content": "lo", "tool_calls": null}}]}),
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "run", "arguments": "{\"a\""}}]}}]}),
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}, {"index": 1, "id": "c2", "function": {"name": "look", "arguments": "{broken"}}]}}]}),
            json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}}),
        ])
        .unwrap();
        assert_eq!((answer.text.as_str(), answer.stop), ("Hello", Stop::ToolCalls));
        assert_eq!(answer.calls[0].arguments, Ok(json!({"a": 1})));
        assert!(answer.calls[1].arguments.is_err());
        assert_eq!((answer.usage.input, answer.usage.output, answer.usage.cache_read), (9, 4, 5));
    }

    #[test]
    fn reasoning_goes_back_with_the_calls_that_it_led_to() {
        let answer = gather(&[
            json!({"choices": [{"delta": {"reasoning_content": "I "}}]}),
            json!({"choices": [{"delta": {"reasoning_content": "think", "content": null}}]}),
            json!({"choices": [{"delta": {"content": "Hi"}}]}),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        ])
        .unwrap();
        assert_eq!(answer.text, "Hi", "reasoning is not what it says");
        let own = Block::Opaque { provider: NAME.to_owned(), value: answer.opaque[0].value.clone() };
        let said = Block::Text { text: "Hi".to_owned() };
        let call = Block::ToolUse { id: "c".to_owned(), name: "run".to_owned(), arguments: json!({}) };
        let foreign =
            Block::Opaque { provider: "anthropic".to_owned(), value: json!({"reasoning_content": "x"}) };
        let with_call = assistant(&[own.clone(), foreign, said.clone(), call.clone()], false).unwrap();
        assert_eq!(with_call["reasoning_content"], "I think");
        assert_eq!(assistant(&[own.clone(), said], false).unwrap().get("reasoning_content"), None);
        assert_eq!(assistant(&[own, call], true).unwrap().get("reasoning_content"), None);
    }

    #[test]
    fn a_stream_that_ends_early_or_tells_of_an_error_is_broken() {
        let early = gather(&[json!({"choices": [{"delta": {"content": "Hel"}}]})]);
        assert!(matches!(early, Err(ModelError::Broken(_))));
        let error = gather(&[json!({"error": {"message": "boom"}})]);
        assert!(matches!(error, Err(ModelError::Broken(why)) if why == "boom"));
        let overflow = gather(&[json!({"error": {"message": "m", "code": "context_length_exceeded"}})]);
        assert!(matches!(overflow, Err(ModelError::ContextOverflow)));
    }
}
