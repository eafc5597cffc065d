//! What Converse is sent.

use aws_sdk_bedrockruntime::error::BuildError;
use aws_sdk_bedrockruntime::types::{
    CachePointBlock, CachePointType, ContentBlock, ConversationRole, InferenceConfiguration, Message,
    ReasoningContentBlock, ReasoningTextBlock, SystemContentBlock, Tool, ToolConfiguration, ToolInputSchema,
    ToolResultBlock, ToolResultContentBlock, ToolResultStatus, ToolSpecification, ToolUseBlock,
};
use aws_smithy_types::{Blob, Document, Number};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pvm_application::ports_model::{Block, ModelError, ModelMessage, ModelRequest, ModelTool, Role};
use serde_json::{Value, json};

use super::NAME;
use crate::claude;
use crate::endpoint::tool_id;

/// A request in Converse's words.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) system: Vec<SystemContentBlock>,
    pub(super) messages: Vec<Message>,
    pub(super) inference: InferenceConfiguration,
    pub(super) tools: Option<ToolConfiguration>,
}

pub(super) fn build(model: &str, request: &ModelRequest) -> Result<Parts, ModelError> {
    parts(Traits::of(model), request).map_err(|error| ModelError::Refused(error.to_string()))
}

fn parts(traits: Traits, request: &ModelRequest) -> Result<Parts, BuildError> {
    let mut system = Vec::new();
    // An empty text is refused.
    if !request.system.trim().is_empty() {
        system.push(SystemContentBlock::Text(request.system.clone()));
        if traits.caches {
            system.push(SystemContentBlock::CachePoint(cache_point()?));
        }
    }
    let mut messages = Vec::new();
    for (place, message) in request.messages.iter().enumerate() {
        let is_last = place + 1 == request.messages.len();
        messages.extend(self::message(traits, message, is_last)?);
    }
    let inference = InferenceConfiguration::builder()
        .max_tokens(i32::try_from(request.max_tokens).unwrap_or(i32::MAX))
        .set_temperature(request.temperature.filter(|_| traits.takes_temperature))
        .build();
    let tools = if request.tools.is_empty() {
        None
    } else {
        let tools = request.tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
        Some(ToolConfiguration::builder().set_tools(Some(tools)).build()?)
    };
    Ok(Parts { system, messages, inference, tools })
}

/// What a model takes, by its name: the service refuses a whole request for one field that its model does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traits {
    /// Marks of what to cache.
    caches: bool,
    /// A sampling temperature.
    takes_temperature: bool,
    /// Whether a tool's result failed.
    takes_status: bool,
}

impl Traits {
    fn of(model: &str) -> Self {
        let is_nova = model.contains("amazon.nova");
        let Some(version) = claude::version(model) else {
            return Self { caches: is_nova, takes_temperature: true, takes_status: is_nova };
        };
        let before_caches =
            ["claude-3-haiku", "claude-3-sonnet", "claude-3-opus", "claude-3-5-sonnet-20240620"];
        Self {
            caches: version >= (3, 0) && !before_caches.iter().any(|old| model.contains(old)),
            takes_temperature: claude::takes_temperature(model),
            takes_status: version >= (3, 0),
        }
    }
}

fn cache_point() -> Result<CachePointBlock, BuildError> {
    CachePointBlock::builder().r#type(CachePointType::Default).build()
}

fn message(traits: Traits, message: &ModelMessage, is_last: bool) -> Result<Option<Message>, BuildError> {
    let mut content = Vec::new();
    for block in &message.blocks {
        content.extend(self::block(traits, block)?);
    }
    // The history is cached up to the block before its last: the last tells the state of the workspace now and changes.
    if is_last && traits.caches && content.len() > 1 {
        content.insert(content.len() - 1, ContentBlock::CachePoint(cache_point()?));
    }
    if content.is_empty() {
        return Ok(None);
    }
    let role = match message.role {
        Role::User => ConversationRole::User,
        Role::Assistant => ConversationRole::Assistant,
    };
    Message::builder().role(role).set_content(Some(content)).build().map(Some)
}

fn block(traits: Traits, block: &Block) -> Result<Option<ContentBlock>, BuildError> {
    Ok(Some(match block {
        Block::Text { text } if text.trim().is_empty() => return Ok(None),
        Block::Text { text } => ContentBlock::Text(text.clone()),
        Block::ToolUse { id, name, arguments } => {
            let used = ToolUseBlock::builder().tool_use_id(tool_id(id)).name(name).input(document(arguments));
            ContentBlock::ToolUse(used.build()?)
        }
        Block::ToolResult { id, text, is_error } => {
            let result = ToolResultBlock::builder()
                .tool_use_id(tool_id(id))
                .content(ToolResultContentBlock::Text(text.clone()))
                .set_status((*is_error && traits.takes_status).then_some(ToolResultStatus::Error));
            ContentBlock::ToolResult(result.build()?)
        }
        Block::Opaque { provider, value } if provider == NAME => return reasoning(value),
        Block::Opaque { .. } => return Ok(None),
    }))
}

/// Reasoning that goes back as it came; see [`kept_reasoning`].
fn reasoning(value: &Value) -> Result<Option<ContentBlock>, BuildError> {
    let content = &value["reasoningContent"];
    if let Some(text) = content["reasoningText"]["text"].as_str() {
        let signature = content["reasoningText"]["signature"].as_str().map(str::to_owned);
        let text = ReasoningTextBlock::builder().text(text).set_signature(signature).build()?;
        return Ok(Some(ContentBlock::ReasoningContent(ReasoningContentBlock::ReasoningText(text))));
    }
    let redacted = content["redactedContent"].as_str().and_then(|text| STANDARD.decode(text).ok());
    Ok(redacted.map(|bytes| {
        ContentBlock::ReasoningContent(ReasoningContentBlock::RedactedContent(Blob::new(bytes)))
    }))
}

/// The form in which reasoning is kept, which is that of the wire. Without a signature it means nothing to the model that
/// gets it back, and some refuse it.
pub(super) fn kept_reasoning(text: &str, signature: Option<&str>, redacted: &[u8]) -> Option<Value> {
    if !redacted.is_empty() {
        return Some(json!({"reasoningContent": {"redactedContent": STANDARD.encode(redacted)}}));
    }
    let signature = signature?;
    Some(json!({"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}))
}

fn tool(tool: &ModelTool) -> Result<Tool, BuildError> {
    let spec = ToolSpecification::builder()
        .name(&tool.name)
        .description(&tool.description)
        .input_schema(ToolInputSchema::Json(document(&tool.input_schema)));
    Ok(Tool::ToolSpec(spec.build()?))
}

/// JSON in the SDK's form.
fn document(value: &Value) -> Document {
    match value {
        Value::Null => Document::Null,
        Value::Bool(yes) => Document::Bool(*yes),
        Value::Number(number) => Document::Number(match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Number::PosInt(number),
            (None, Some(number)) => Number::NegInt(number),
            (None, None) => Number::Float(number.as_f64().unwrap_or_default()),
        }),
        Value::String(text) => Document::String(text.clone()),
        Value::Array(items) => Document::Array(items.iter().map(document).collect()),
        Value::Object(fields) => {
            Document::Object(fields.iter().map(|(name, inner)| (name.clone(), document(inner))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_takes_follows_from_its_name() {
        let all =
            |caches, takes_temperature, takes_status| Traits { caches, takes_temperature, takes_status };
        assert_eq!(Traits::of("us.anthropic.claude-opus-4-7-v1:0"), all(true, false, true));
        assert_eq!(Traits::of("anthropic.claude-3-haiku-20240307-v1:0"), all(false, true, true));
        assert_eq!(Traits::of("anthropic.claude-v2:1"), all(false, true, false));
        assert_eq!(Traits::of("us.amazon.nova-pro-v1:0"), all(true, true, true));
        assert_eq!(Traits::of("mistral.mistral-large-2407-v1:0"), all(false, true, false));
    }

    #[test]
    fn reasoning_goes_back_as_it_came_and_only_with_its_signature() {
        assert_eq!(kept_reasoning("hm", None, &[]), None);
        let kept = kept_reasoning("hm", Some("sig"), &[]).unwrap();
        let Some(ContentBlock::ReasoningContent(ReasoningContentBlock::ReasoningText(text))) =
            reasoning(&kept).unwrap()
        else {
            panic!("{kept}")
        };
        assert_eq!((text.text(), text.signature()), ("hm", Some("sig")));
        let kept = kept_reasoning("", None, b"\x00\xff").unwrap();
        let back = reasoning(&kept).unwrap();
        assert!(matches!(
            back,
            Some(ContentBlock::ReasoningContent(ReasoningContentBlock::RedactedContent(blob)))
                if blob.as_ref() == b"\x00\xff"
        ));
    }
}
