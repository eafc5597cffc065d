//! Server-sent events, decoded from bytes as they come. Bytes that are no UTF-8 become U+FFFD: a broken letter must not
//! end an answer.

/// The longest line that is taken, in bytes: more is no event but a fault.
const LINE_BYTES: usize = 8 * 1024 * 1024;

/// An event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Its `event` field; empty where there is none.
    pub(crate) name: String,
    /// Its `data` lines, joined.
    pub(crate) data: String,
}

/// A decoder. Feed it bytes, take events.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    event: SseEvent,
    has_data: bool,
}

/// A line that never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Decoder {
    /// Takes bytes; answers the events that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(end) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let line = &self.buffer[start..start + end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = String::from_utf8_lossy(line).into_owned();
            start += end + 1;
            events.extend(self.line(&line));
        }
        self.buffer.drain(..start);
        if self.buffer.len() > LINE_BYTES { Err(TooLong) } else { Ok(events) }
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            // Comments, ids and retry times mean nothing here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_their_bytes_are_cut() {
        let stream =
            "event: a\ndata: one\ndata: tw\u{f6}\n\n: comment\nid: 1\n\ndata: {\"x\":1}\r\n\r\ndata: half";
        for size in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                found.extend(decoder.feed(piece).unwrap());
            }
            let names: Vec<_> =
                found.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            assert_eq!(names, [("a", "one\ntw\u{f6}"), ("", "{\"x\":1}")], "{size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_an_endless_line_is_refused() {
        let mut decoder = Decoder::default();
        let found = decoder.feed(b"data: a\xff\xfeb\n\n").unwrap();
        assert_eq!(found[0].data, "a\u{fffd}\u{fffd}b");
        assert_eq!(Decoder::default().feed(&vec![b'x'; LINE_BYTES + 1]), Err(TooLong));
    }
}
