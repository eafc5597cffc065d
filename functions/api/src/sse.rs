//! Server-sent events: how they look on the wire.

use bytes::Bytes;
use serde::Serialize;

/// The media type of an event stream.
pub(crate) const MEDIA_TYPE: &str = "text/event-stream";
/// How long a client waits before it comes back, in milliseconds.
const RETRY_MILLIS: u32 = 1_000;

/// Tells the client when to come back; the first thing of every stream.
pub(crate) fn retry() -> Bytes {
    Bytes::from(format!("retry: {RETRY_MILLIS}\n\n"))
}

/// A comment: the connection is alive.
pub(crate) fn heartbeat() -> Bytes {
    Bytes::from_static(b": alive\n\n")
}

/// One event. JSON has no line breaks outside of its texts, and there they are escaped, so the data is one line.
pub(crate) fn event(id: Option<u64>, name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    match id {
        Some(id) => Bytes::from(format!("id: {id}\nevent: {name}\ndata: {data}\n\n")),
        None => Bytes::from(format!("event: {name}\ndata: {data}\n\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_block_whatever_its_data_says() {
        let block = event(Some(7), "tool.output", &"a\nb\n\nid: 9\r");
        assert_eq!(block, "id: 7\nevent: tool.output\ndata: \"a\\nb\\n\\nid: 9\\r\"\n\n");
        assert_eq!(event(None, "delta", &1), "event: delta\ndata: 1\n\n");
    }
}
