//! The messages of an event stream.

use serde_json::Value;

/// Reads the messages out of an event stream, whatever pieces it comes in.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    /// The messages that `piece` completes.
    pub(super) fn take(&mut self, piece: &[u8]) -> Vec<Value> {
        let mut found = Vec::new();
        for byte in piece {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                found.extend(serde_json::from_slice::<Value>(&std::mem::take(&mut self.data)).ok());
            } else if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_read_in_any_pieces() {
        let stream =
            b"id: 1\nretry: 3\ndata:\n\n: comment\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata: {\"b\":2}\n\n";
        for size in [1, 7, 100] {
            let mut events = Events::default();
            let found: Vec<Value> = stream.chunks(size).flat_map(|piece| events.take(piece)).collect();
            assert_eq!(found, [json!({"a": 1}), json!({"b": 2})], "pieces of {size}");
        }
    }
}
