//! What the server answers to what. The keys are words of the last user message.

use serde_json::{Value, json};

pub(crate) const GREET: &str = "greet me";
pub(crate) const GREETING: &str = "Hello, wörld! This answer comes in several pieces, \u{1f980} included.";
pub(crate) const WORK: &str = "work with both tools";
pub(crate) const WORKING: &str = "I look around first.";
pub(crate) const RESULTS: &str = "these are the results";
pub(crate) const DONE: &str = "Both tools answered.";
pub(crate) const SHORT_WAIT: &str = "come back in a second";
pub(crate) const LONG_WAIT: &str = "come back in forty seconds";
pub(crate) const OVERLOADED: &str = "too many people here";
pub(crate) const TOO_LONG: &str = "all the books of the library";
pub(crate) const BAD_KEY: &str = "who are you";
pub(crate) const BAD_REQUEST: &str = "make no sense";
pub(crate) const BREAKS_OFF: &str = "tell a story";
pub(crate) const STORY: &str = "Once upon a time there was a long answer that its reader never saw the end of, because the line went dead.";
pub(crate) const HANGS_UP: &str = "hang up on me";

fn fixture(words: &str, response: &Value) -> Value {
    json!({"match": {"userMessage": words}, "response": response, "chunkSize": 7})
}

fn error(words: &str, status: u16, kind: &str, message: &str) -> Value {
    fixture(words, &json!({"status": status, "error": {"type": kind, "message": message}}))
}

pub(crate) fn all() -> Value {
    // Each provider's handler takes the counts by its own names.
    let usage =
        json!({"prompt_tokens": 120, "completion_tokens": 30, "input_tokens": 120, "output_tokens": 30});
    let work = json!({
        "content": WORKING,
        "toolCalls": [
            {"name": "execute_command", "arguments": {"command": "ls -la \"a b\"", "timeout_secs": 5}},
            {"name": "read_file", "arguments": {"path": "README.md"}},
        ],
    });
    let mut wait = error(SHORT_WAIT, 429, "rate_limit_error", "slower, please");
    wait["match"]["sequenceIndex"] = json!(0);
    wait["response"]["retryAfter"] = json!(1);
    let mut long_wait = error(LONG_WAIT, 429, "rate_limit_error", "slower, please");
    long_wait["response"]["retryAfter"] = json!(40);
    let mut too_long =
        error(TOO_LONG, 400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum");
    too_long["response"]["error"]["code"] = json!("context_length_exceeded");
    let mut breaks_off = fixture(BREAKS_OFF, &json!({"content": STORY}));
    breaks_off["truncateAfterChunks"] = json!(4);
    // Without a pause nothing would be on its way when the line is cut.
    breaks_off["latency"] = json!(30);
    let mut hangs_up = fixture(HANGS_UP, &json!({"content": "never"}));
    hangs_up["chaos"] = json!({"disconnectRate": 1.0});
    json!({"fixtures": [
        fixture(GREET, &json!({"content": GREETING, "usage": usage})),
        fixture(WORK, &work),
        fixture(RESULTS, &json!({"content": DONE})),
        wait,
        fixture(SHORT_WAIT, &json!({"content": GREETING})),
        long_wait,
        error(OVERLOADED, 529, "overloaded_error", "Overloaded"),
        too_long,
        error(BAD_KEY, 401, "authentication_error", "invalid key"),
        error(BAD_REQUEST, 400, "invalid_request_error", "a field is wrong"),
        breaks_off,
        hangs_up,
    ]})
}
