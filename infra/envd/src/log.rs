//! Log lines: one JSON object a line on standard error. Small on purpose; this binary is in every sandbox.
//!
//! Arguments, environment, input and output of commands never go in here, nor do tokens.

use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Writes a line. `fields` is an object; other values are ignored. A failing standard error is ignored, for
/// there is nowhere to tell.
pub fn line(level: &str, message: &str, fields: Value) {
    let mut record = Map::new();
    record.insert("ts".into(), json!(Timestamp::now().to_string()));
    record.insert("level".into(), json!(level));
    record.insert("message".into(), json!(message));
    if let Value::Object(fields) = fields {
        record.extend(fields);
    }
    let mut text = Value::Object(record).to_string();
    text.push('\n');
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// An ordinary event.
pub fn info(message: &str, fields: Value) {
    line("info", message, fields);
}

/// Something that should not be, but does not stop us.
pub fn warn(message: &str, fields: Value) {
    line("warn", message, fields);
}
