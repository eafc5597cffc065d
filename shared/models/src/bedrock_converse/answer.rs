//! What Converse answers, event by event.

use std::collections::BTreeMap;

use aws_sdk_bedrockruntime::types::{
    ContentBlockDelta, ContentBlockStart, ConverseStreamOutput, ReasoningContentBlockDelta, StopReason,
    TokenUsage as Used,
};
use pvm_application::ports_model::{ModelAnswer, ModelError, OpaqueBlock, Stop, TokenUsage, WantedCall};
use pvm_domain::conversation::BlockPlace;

use super::request::kept_reasoning;
use crate::endpoint::{self, ANSWER_BYTES};

#[derive(Debug)]
enum Part {
    /// So many bytes of the text.
    Text(usize),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    Reasoning {
        text: String,
        signature: Option<String>,
        redacted: Vec<u8>,
    },
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    text: String,
    parts: BTreeMap<i32, Part>,
    argument_bytes: usize,
    stop: Option<StopReason>,
    usage: TokenUsage,
}

impl Gathered {
    /// Takes an event; answers the text that it brings.
    pub(super) fn take(&mut self, event: ConverseStreamOutput) -> String {
        match event {
            ConverseStreamOutput::ContentBlockStart(start) => {
                if let Some(ContentBlockStart::ToolUse(used)) = start.start {
                    let (id, name) = (used.tool_use_id, used.name);
                    let call = Part::Call { id, name, arguments: String::new() };
                    self.parts.insert(start.content_block_index, call);
                }
            }
            ConverseStreamOutput::ContentBlockDelta(event) => {
                return event
                    .delta
                    .map(|delta| self.delta(event.content_block_index, delta))
                    .unwrap_or_default();
            }
            ConverseStreamOutput::MessageStop(end) => self.stop = Some(end.stop_reason),
            ConverseStreamOutput::Metadata(metadata) => {
                if let Some(used) = metadata.usage {
                    self.usage = usage(&used);
                }
            }
            _ => {}
        }
        String::new()
    }

    fn delta(&mut self, index: i32, delta: ContentBlockDelta) -> String {
        match delta {
            ContentBlockDelta::Text(piece) => {
                if let Part::Text(bytes) = self.parts.entry(index).or_insert(Part::Text(0)) {
                    *bytes += piece.len();
                }
                self.text.push_str(&piece);
                return piece;
            }
            ContentBlockDelta::ToolUse(more) => {
                if let Some(Part::Call { arguments, .. }) = self.parts.get_mut(&index) {
                    self.argument_bytes += more.input.len();
                    arguments.push_str(&more.input);
                }
            }
            ContentBlockDelta::ReasoningContent(more) => self.reason(index, more),
            _ => {}
        }
        String::new()
    }

    fn reason(&mut self, index: i32, more: ReasoningContentBlockDelta) {
        let empty = || Part::Reasoning { text: String::new(), signature: None, redacted: Vec::new() };
        let Part::Reasoning { text, signature, redacted } = self.parts.entry(index).or_insert_with(empty)
        else {
            return;
        };
        match more {
            ReasoningContentBlockDelta::Text(piece) => text.push_str(&piece),
            ReasoningContentBlockDelta::Signature(piece) => {
                signature.get_or_insert_default().push_str(&piece);
            }
            ReasoningContentBlockDelta::RedactedContent(bytes) => redacted.extend_from_slice(bytes.as_ref()),
            _ => {}
        }
    }

    /// Whether the answer is whole.
    pub(super) fn has_ended(&self) -> bool {
        self.stop.is_some()
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.text.len() > ANSWER_BYTES || self.argument_bytes > ANSWER_BYTES
    }

    pub(super) fn finish(self) -> Result<ModelAnswer, ModelError> {
        let too_long = self.is_too_long();
        let stop = match self.stop {
            _ if too_long => Stop::MaxTokens,
            None => return Err(ModelError::Broken("the stream ended before the answer did".to_owned())),
            Some(StopReason::ToolUse) => Stop::ToolCalls,
            Some(StopReason::MaxTokens | StopReason::ModelContextWindowExceeded) => Stop::MaxTokens,
            Some(StopReason::ContentFiltered | StopReason::GuardrailIntervened) => Stop::Refusal,
            Some(ref reason @ (StopReason::MalformedToolUse | StopReason::MalformedModelOutput)) => {
                return Err(ModelError::Broken(format!("the provider says {}", reason.as_str())));
            }
            Some(ref reason) if reason.as_str() == "refusal" => Stop::Refusal,
            Some(_) => Stop::End,
        };
        let mut calls = Vec::new();
        let mut opaque = Vec::new();
        let mut text_before = 0;
        for part in self.parts.into_values() {
            match part {
                Part::Text(bytes) => text_before += bytes,
                Part::Call { id, name, arguments } => {
                    let arguments = endpoint::arguments(&arguments);
                    calls.push(WantedCall { provider_id: id, name, arguments });
                }
                Part::Reasoning { text, signature, redacted } => {
                    let after = BlockPlace { text: text_before, calls: calls.len() };
                    let kept = kept_reasoning(&text, signature.as_deref(), &redacted);
                    opaque.extend(kept.map(|value| OpaqueBlock { after, value }));
                }
            }
        }
        if too_long {
            calls.clear();
        }
        Ok(ModelAnswer { text: self.text, calls, opaque, stop, usage: self.usage })
    }
}

/// The service counts caches apart from the input.
fn usage(used: &Used) -> TokenUsage {
    let count = |number: i32| u64::try_from(number).unwrap_or(0);
    let cache_read = count(used.cache_read_input_tokens.unwrap_or(0));
    let cache_write = count(used.cache_write_input_tokens.unwrap_or(0));
    TokenUsage {
        input: count(used.input_tokens) + cache_read + cache_write,
        output: count(used.output_tokens),
        cache_read,
        cache_write,
        cost_microusd: 0,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_bedrockruntime::types::{
        ContentBlockDeltaEvent, ContentBlockStartEvent, ConverseStreamMetadataEvent, MessageStopEvent,
        ToolUseBlockDelta, ToolUseBlockStart,
    };
    use serde_json::json;

    use super::*;

    fn delta(index: i32, delta: ContentBlockDelta) -> ConverseStreamOutput {
        let event = ContentBlockDeltaEvent::builder().content_block_index(index).delta(delta);
        ConverseStreamOutput::ContentBlockDelta(event.build().unwrap())
    }

    fn stop(reason: StopReason) -> ConverseStreamOutput {
        ConverseStreamOutput::MessageStop(MessageStopEvent::builder().stop_reason(reason).build().unwrap())
    }

    fn gather(events: Vec<ConverseStreamOutput>) -> Result<ModelAnswer, ModelError> {
        let mut gathered = Gathered::default();
        for event in events {
            gathered.take(event);
        }
        gathered.finish()
    }

    #[test]
    fn text_calls_and_reasoning_are_put_together() {
        let used = ToolUseBlockStart::builder().tool_use_id("t1").name("run").build().unwrap();
        let start =
            ContentBlockStartEvent::builder().content_block_index(2).start(ContentBlockStart::ToolUse(used));
        let input = |text: &str| {
            ContentBlockDelta::ToolUse(ToolUseBlockDelta::builder().input(text).build().unwrap())
        };
        let think = ContentBlockDelta::ReasoningContent;
        let counts =
            Used::builder().input_tokens(10).output_tokens(30).total_tokens(130).cache_read_input_tokens(90);
        let metadata = ConverseStreamMetadataEvent::builder().usage(counts.build().unwrap()).build();
        let answer = gather(vec![
            delta(0, think(ReasoningContentBlockDelta::Text("hm".to_owned()))),
            delta(0, think(ReasoningContentBlockDelta::Signature("s".to_owned()))),
            delta(1, ContentBlockDelta::Text("Hello".to_owned())),
            ConverseStreamOutput::ContentBlockStart(start.build().unwrap()),
            delta(2, input("{\"a\":")),
            delta(2, input("1}")),
            stop(StopReason::ToolUse),
            ConverseStreamOutput::Metadata(metadata),
        ])
        .unwrap();
        assert_eq!((answer.text.as_str(), answer.stop), ("Hello", Stop::ToolCalls));
        assert_eq!(answer.calls[0].arguments, Ok(json!({"a": 1})));
        let value = json!({"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}});
        assert_eq!(answer.opaque, [OpaqueBlock { after: BlockPlace::default(), value }]);
        assert_eq!((answer.usage.input, answer.usage.output, answer.usage.cache_read), (100, 30, 90));
    }

    #[test]
    fn the_end_is_told_by_its_reason() {
        assert!(matches!(gather(Vec::new()), Err(ModelError::Broken(_))));
        assert!(matches!(gather(vec![stop(StopReason::MalformedToolUse)]), Err(ModelError::Broken(_))));
        let stops = |reason: StopReason| gather(vec![stop(reason)]).unwrap().stop;
        assert_eq!(stops(StopReason::MaxTokens), Stop::MaxTokens);
        assert_eq!(stops(StopReason::GuardrailIntervened), Stop::Refusal);
        assert_eq!(stops(StopReason::from("refusal")), Stop::Refusal);
        assert_eq!(stops(StopReason::from("something_new")), Stop::End);
    }
}
