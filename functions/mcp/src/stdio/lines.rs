//! Lines of the client, of bounded length. One that is too long is read to its end in little memory, and its id is found
//! on the way: whoever sent it waits for an answer.

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// The longest line, in bytes: what the server takes.
const LINE_BYTES: usize = 6 * 1024 * 1024;
/// The longest id that is answered to, in bytes of JSON.
const ID_BYTES: usize = 1024;

/// A line of the client.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// The whole line.
    Whole(Vec<u8>),
    /// One that is too long, with the id of the request that it was, if it was one.
    TooLong(Option<Value>),
}

/// The next line, without its end; `None` after the last.
pub(super) async fn next<R: AsyncBufRead + Unpin>(input: &mut R) -> std::io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut finder: Option<IdFinder> = None;
    loop {
        let buffer = input.fill_buf().await?;
        let is_over = buffer.is_empty();
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        match &mut finder {
            Some(finder) => finder.feed(piece),
            None if line.len() + piece.len() > LINE_BYTES => {
                let finder = finder.insert(IdFinder::default());
                finder.feed(&std::mem::take(&mut line));
                finder.feed(piece);
            }
            None => line.extend_from_slice(piece),
        }
        let used = piece.len() + usize::from(end.is_some());
        input.consume(used);
        if is_over && line.is_empty() && finder.is_none() {
            return Ok(None);
        }
        if is_over || end.is_some() {
            return Ok(Some(finder.map_or(Line::Whole(line), |finder| Line::TooLong(finder.id))));
        }
    }
}

/// Finds the `id` of a JSON object that passes by, wherever in the object it stands.
#[derive(Debug, Default)]
struct IdFinder {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The key or value that is being read, as far as it may be an id.
    part: Vec<u8>,
    is_id: bool,
    id: Option<Value>,
}

impl IdFinder {
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.take(*byte);
        }
    }

    fn take(&mut self, byte: u8) {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return self.keep(byte);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth == 1 {
                    return;
                }
            }
            b':' if self.depth == 1 => {
                self.is_id = std::mem::take(&mut self.part).trim_ascii() == br#""id""#;
                return;
            }
            b',' if self.depth == 1 => return self.end_member(),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return self.end_member();
                }
            }
            _ => {}
        }
        self.keep(byte);
    }

    fn keep(&mut self, byte: u8) {
        if self.part.len() <= ID_BYTES {
            self.part.push(byte);
        }
    }

    fn end_member(&mut self) {
        let part = std::mem::take(&mut self.part);
        if std::mem::take(&mut self.is_id) && part.len() <= ID_BYTES {
            self.id = serde_json::from_slice(&part).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn all(text: &[u8]) -> Vec<Line> {
        // A small buffer: lines come in many pieces.
        let mut input = tokio::io::BufReader::with_capacity(4096, text);
        let mut found = Vec::new();
        while let Some(line) = next(&mut input).await.unwrap() {
            found.push(line);
        }
        found
    }

    #[tokio::test]
    async fn lines_end_at_their_mark_and_the_last_at_the_end() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(
            all(b"one\n\ntwo\r\nthree").await,
            [whole("one"), whole(""), whole("two\r"), whole("three")]
        );
        assert_eq!(all(b"").await, []);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_keeps_its_id_and_not_its_text() {
        let long = "x".repeat(LINE_BYTES);
        for (text, id) in [
            (format!(r#"{{"id":7,"params":{{"id":1,"a":"{long}"}}}}"#), Some(json!(7))),
            (
                format!(r#"{{"params":{{"a":"\"}},\"id\":3{long}","b":[{{"id":4}}]}}, "id" : "s,\"1"}}"#),
                Some(json!("s,\"1")),
            ),
            (format!(r#"{{"method":"notifications/progress","params":{{"id":"{long}"}}}}"#), None),
            (format!(r#"{{"id":"{long}"}}"#), None),
            (format!(r#"[{{"id":1,"a":"{long}"}}]"#), None),
            (long.clone() + "x", None),
        ] {
            let shown: String = text.chars().take(60).collect();
            let next = b"{\"id\":2}".to_vec();
            assert_eq!(
                all((text + "\n{\"id\":2}").as_bytes()).await,
                [Line::TooLong(id), Line::Whole(next)],
                "{shown}"
            );
        }
    }
}
