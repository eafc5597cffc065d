//! Output of programs in answers: text from bytes that may end in the middle of a character, and cut to what an answer
//! holds.

use bytes::Bytes;
use pvm_application::ports::Chunk;
use pvm_domain::text;

/// The text of a chunk and the offset to go on from. A character that is cut in two at the end is left for the next
/// chunk; other bytes that are no UTF-8 become U+FFFD.
pub(crate) fn text_of(chunk: &Chunk) -> (String, u64) {
    let whole = whole_characters(&chunk.data);
    // Nothing but the head of a character: it is shown as it is rather than asked for again and again.
    let whole = if whole == 0 { chunk.data.len() } else { whole };
    let left = (chunk.data.len() - whole) as u64;
    (String::from_utf8_lossy(&chunk.data[..whole]).into_owned(), chunk.next - left)
}

/// How many bytes of `data` come before a character that is cut off at the end.
fn whole_characters(data: &[u8]) -> usize {
    // A character has at most four bytes, so a cut one starts within the last three.
    for back in 1..=data.len().min(3) {
        let at = data.len() - back;
        let wanted = match data[at] {
            byte if byte & 0b1100_0000 == 0b1000_0000 => continue,
            byte if byte & 0b1110_0000 == 0b1100_0000 => 2,
            byte if byte & 0b1111_0000 == 0b1110_0000 => 3,
            byte if byte & 0b1111_1000 == 0b1111_0000 => 4,
            _ => 1,
        };
        return if wanted > back { at } else { data.len() };
    }
    data.len()
}

/// `text` cut in its middle so that it has at most `most` bytes as JSON, and whether it was cut.
pub(crate) fn fitted(text: &str, most: usize) -> (String, bool) {
    let mut bytes = most;
    loop {
        let (shown, cut) = text::head_and_tail(text, bytes);
        let encoded = encoded(&shown);
        if encoded <= most {
            return (shown, cut);
        }
        // Control characters take six bytes each: shrink by how much too long it came out.
        bytes = (bytes * most / encoded).min(bytes.saturating_sub(64));
    }
}

/// The head of a chunk that has at most `most` bytes as JSON.
pub(crate) fn head(chunk: &Chunk, most: usize) -> Chunk {
    let mut keep = chunk.data.len();
    while keep > 0 && encoded(&String::from_utf8_lossy(&chunk.data[..keep])) > most {
        keep /= 2;
    }
    let data: Bytes = chunk.data.slice(..keep);
    Chunk { next: chunk.next - (chunk.data.len() - keep) as u64, data, ..chunk.clone() }
}

fn encoded(text: &str) -> usize {
    serde_json::to_vec(text).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(data: &[u8], offset: u64) -> Chunk {
        let next = offset + data.len() as u64;
        Chunk { data: Bytes::copy_from_slice(data), offset, next, total: next, dropped: 0 }
    }

    #[test]
    fn a_character_that_is_cut_in_two_waits_for_its_rest() {
        let text = "aé€😀".as_bytes();
        for end in 1..=text.len() {
            let (shown, next) = text_of(&chunk(&text[..end], 10));
            assert!(!shown.contains('\u{fffd}'), "{end}");
            assert_eq!(shown.len() as u64, next - 10, "{end}");
        }
        assert_eq!(text_of(&chunk(b"a\xff\xfeb", 0)), ("a\u{fffd}\u{fffd}b".to_owned(), 4));
        assert_eq!(text_of(&chunk(b"\xe2\x82", 0)).1, 2);
    }

    #[test]
    fn output_is_cut_by_what_it_takes_encoded() {
        let (shown, cut) = fitted(&"\u{1}".repeat(10_000), 3_000);
        assert!(cut && encoded(&shown) <= 3_000);
        assert_eq!(fitted("short", 3_000), ("short".to_owned(), false));
        let head = head(&chunk(&[1; 10_000], 0), 3_000);
        assert_eq!(head.next, head.data.len() as u64);
        assert!(encoded(&String::from_utf8_lossy(&head.data)) <= 3_000 && head.next > 0);
    }
}
