//! Reasoning, which the servers that tell it do in fields of their own: `reasoning_content` (DeepSeek, vLLM, llama.cpp),
//! `reasoning` and `reasoning_details` (OpenRouter). Some refuse a conversation whose calls come back without it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The most that is kept, in bytes; more is not sent back anyway.
const BYTES: usize = 256 * 1024;
/// Fields of a detail that come in pieces.
const IN_PIECES: [&str; 3] = ["text", "summary", "data"];

/// What one piece of a stream brings. Servers differ in what they put here, and nothing of it may break an answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Piece {
    #[serde(default)]
    reasoning_content: Value,
    #[serde(default)]
    reasoning: Value,
    #[serde(default)]
    reasoning_details: Value,
}

/// Reasoning as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Reasoning {
    content: String,
    text: String,
    details: Vec<Map<String, Value>>,
    bytes: usize,
}

impl Reasoning {
    pub(super) fn take(&mut self, piece: Piece) {
        for (all, more) in [(&mut self.content, &piece.reasoning_content), (&mut self.text, &piece.reasoning)]
        {
            let more = more.as_str().unwrap_or_default();
            self.bytes += more.len();
            if self.bytes <= BYTES {
                all.push_str(more);
            }
        }
        let Value::Array(details) = piece.reasoning_details else { return };
        for detail in details {
            self.bytes += detail.to_string().len();
            if let (Value::Object(detail), true) = (detail, self.bytes <= BYTES) {
                self.detail(detail);
            }
        }
    }

    /// A detail goes on with the one before where both are of one index and kind.
    fn detail(&mut self, detail: Map<String, Value>) {
        let is_same = |last: &Map<String, Value>| {
            detail.contains_key("index")
                && ["index", "type"].iter().all(|name| last.get(*name) == detail.get(*name))
        };
        let Some(last) = self.details.last_mut().filter(|last| is_same(last)) else {
            return self.details.push(detail);
        };
        for (name, value) in detail {
            match (last.get_mut(&name), value) {
                (_, Value::Null) => {}
                (Some(Value::String(all)), Value::String(more)) if IN_PIECES.contains(&name.as_str()) => {
                    all.push_str(&more);
                }
                (_, value) => {
                    last.insert(name, value);
                }
            }
        }
    }

    /// What is to go back, in the server's own words.
    pub(super) fn kept(self) -> Option<Value> {
        let mut kept = Map::new();
        if self.bytes > BYTES {
            return None;
        }
        for (name, text) in [("reasoning_content", self.content), ("reasoning", self.text)] {
            if !text.is_empty() {
                kept.insert(name.to_owned(), Value::String(text));
            }
        }
        if !self.details.is_empty() {
            kept.insert("reasoning_details".to_owned(), json!(self.details));
        }
        (!kept.is_empty()).then_some(Value::Object(kept))
    }
}

/// Puts what was kept into the message that it came with. Details always go back; plain text only with calls, since it
/// means nothing without them and older servers refuse it.
pub(super) fn put_back(kept: &Value, message: &mut Value, has_calls: bool) {
    let details = &kept["reasoning_details"];
    if !details.is_null() {
        message["reasoning_details"] = details.clone();
        return;
    }
    for name in ["reasoning_content", "reasoning"] {
        if let (true, Some(text)) = (has_calls, kept.get(name)) {
            message[name] = text.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(pieces: &[Value]) -> Option<Value> {
        let mut all = Reasoning::default();
        for piece in pieces {
            all.take(serde_json::from_value(piece.clone()).unwrap());
        }
        all.kept()
    }

    #[test]
    fn details_are_put_together_by_index_and_kind() {
        let kept = gathered(&[
            json!({"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "a", "format": "f"}]}),
            json!({"reasoning": "b", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "b", "format": "f"}]}),
            json!({"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s", "text": null}]}),
            json!({"reasoning_details": [{"type": "reasoning.encrypted", "index": 1, "data": "d"}]}),
        ])
        .unwrap();
        assert_eq!(
            kept["reasoning_details"],
            json!([
                {"type": "reasoning.text", "index": 0, "text": "ab", "format": "f", "signature": "s"},
                {"type": "reasoning.encrypted", "index": 1, "data": "d"},
            ])
        );
        let mut message = json!({"role": "assistant"});
        put_back(&kept, &mut message, false);
        assert_eq!(message["reasoning_details"], kept["reasoning_details"]);
        assert_eq!(message.get("reasoning"), None, "the details say it already");
    }

    #[test]
    fn odd_fields_break_nothing_and_too_much_is_not_kept() {
        assert_eq!(
            gathered(&[json!({"reasoning": {"effort": "high"}, "reasoning_details": "x"}), json!({})]),
            None
        );
        assert_eq!(gathered(&[json!({"reasoning_content": "x".repeat(BYTES + 1)})]), None);
    }
}
