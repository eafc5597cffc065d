//! Rules of free text that users send: names, environment variables.

use std::collections::BTreeMap;

use crate::{Invalid, limits};

/// Checks a display name: 1 to 100 characters after trimming, none of them a control character.
///
/// # Errors
/// Names `field` and the rule.
pub fn name(field: &str, text: &str) -> Result<String, Invalid> {
    let text = text.trim();
    let count = text.chars().count();
    if count == 0 {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if count > limits::NAME_CHARS {
        return Err(Invalid::new(field, format!("must have at most {} characters", limits::NAME_CHARS)));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "must not contain control characters"));
    }
    Ok(text.to_owned())
}

/// Checks a description: at most 4,000 characters, no control characters but newline and tab.
///
/// # Errors
/// Names `field` and the rule.
pub fn description(field: &str, text: &str) -> Result<String, Invalid> {
    if text.chars().count() > limits::DESCRIPTION_CHARS {
        let most = limits::DESCRIPTION_CHARS;
        return Err(Invalid::new(field, format!("must have at most {most} characters")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Invalid::new(field, "must not contain control characters"));
    }
    Ok(text.to_owned())
}

/// Checks environment variables: at most 100, names of letters, digits and `_` that do not start with a digit,
/// values without NUL and of at most 32 KiB.
///
/// # Errors
/// Names `field` and the variable.
pub fn env(field: &str, vars: &BTreeMap<String, String>) -> Result<(), Invalid> {
    if vars.len() > limits::ENV_VARS {
        return Err(Invalid::new(field, format!("must have at most {} variables", limits::ENV_VARS)));
    }
    for (name, value) in vars {
        let head = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !head || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || name.len() > 256 {
            let shown: String = name.chars().take(40).collect();
            return Err(Invalid::new(
                field,
                format!("{shown:?} is not a variable name: use letters, digits and _"),
            ));
        }
        if value.contains('\0') || value.len() > limits::BODY_IN_RECORD_BYTES {
            return Err(Invalid::new(
                field,
                format!("the value of {name} has a NUL byte or more than 32 KiB"),
            ));
        }
    }
    Ok(())
}

/// The last characters of `text` that fit `most` bytes.
pub fn tail(text: &str, most: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(most))..]
}

/// Keeps `text` within `most` bytes by cutting the middle: 60 % head, 40 % tail, and a line that says how much is
/// gone. Cuts only between characters.
pub fn head_and_tail(text: &str, most: usize) -> (String, bool) {
    if text.len() <= most {
        return (text.to_owned(), false);
    }
    let head = text.floor_char_boundary(most * 6 / 10);
    let tail = text.ceil_char_boundary(text.len() - most * 4 / 10);
    let gone = tail - head;
    (format!("{}\n[... {gone} bytes cut ...]\n{}", &text[..head], &text[tail..]), true)
}

/// The bytes of `text` as the inside of a JSON string: what an event, which is stored as JSON text, takes for it.
pub fn encoded_len(text: &str) -> usize {
    text.chars().map(encoded_char).sum()
}

fn encoded_char(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

/// Keeps `text` within `most` bytes as it is encoded in JSON: like [`head_and_tail`], which bounds the raw length.
pub fn encoded_head_and_tail(text: &str, most: usize) -> (String, bool) {
    // No character takes more than six bytes: a short text need not be counted.
    if text.len() * 6 <= most || encoded_len(text) <= most {
        return (text.to_owned(), false);
    }
    let head = prefix(text.char_indices(), most * 6 / 10);
    let tail = text.len() - prefix(text.char_indices().rev(), most * 4 / 10);
    let gone = tail - head;
    (format!("{}\n[... {gone} bytes cut ...]\n{}", &text[..head], &text[tail..]), true)
}

/// The raw length of as many of these characters as fit `most` encoded bytes.
fn prefix(chars: impl Iterator<Item = (usize, char)>, most: usize) -> usize {
    let mut encoded = 0;
    let fits = chars.take_while(|(_, c)| {
        encoded += encoded_char(*c);
        encoded <= most
    });
    fits.map(|(_, c)| c.len_utf8()).sum()
}

/// Whether `text` can be a message of a conversation: a record of its own holds it raw, its event encoded.
pub fn fits_message(text: &str) -> bool {
    text.len() <= limits::MESSAGE_BYTES && encoded_len(text) <= limits::MESSAGE_ENCODED_BYTES
}

/// `text` as a message can hold it, and whether its middle was cut for that.
pub fn as_message(text: &str) -> (String, bool) {
    let (short, cut) = head_and_tail(text, limits::MESSAGE_BYTES);
    let (short, cut_more) = encoded_head_and_tail(&short, limits::MESSAGE_ENCODED_BYTES);
    (short, cut || cut_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoded_length_is_what_json_takes() {
        let all: String = (0..0x300).filter_map(char::from_u32).chain("\u{2028}\u{1f600}".chars()).collect();
        for text in [all.as_str(), "", "\"\\\n", "plain"] {
            assert_eq!(encoded_len(text) + 2, serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }

    #[test]
    fn a_message_is_bounded_as_it_is_stored() {
        let most = limits::MESSAGE_BYTES;
        for worst in ["\n", "\"", "\u{1}", "x", "é"] {
            let text = worst.repeat(most / worst.len());
            let (kept, cut) = as_message(&text);
            assert!(encoded_len(&kept) <= limits::MESSAGE_ENCODED_BYTES + 64, "{worst:?}");
            assert_eq!(cut, !fits_message(&text), "{worst:?}");
            assert!(kept.starts_with(worst) && kept.ends_with(worst));
        }
        assert!(!fits_message(&"\n".repeat(most)) && fits_message(&"x".repeat(most)));
    }

    #[test]
    fn a_name_is_trimmed_and_bounded() {
        assert_eq!(name("name", "  AI Web App ").unwrap(), "AI Web App");
        assert!(name("name", " ").is_err());
        assert!(name("name", &"x".repeat(101)).is_err());
        assert!(name("name", &"é".repeat(100)).is_ok());
        assert!(name("name", "a\u{7}b").is_err());
    }

    #[test]
    fn an_environment_variable_needs_a_shell_name() {
        let one = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        assert!(env("env", &one("PATH_2", "x")).is_ok());
        assert!(env("env", &one("2PATH", "x")).is_err());
        assert!(env("env", &one("A-B", "x")).is_err());
        assert!(env("env", &one("A", "x\0")).is_err());
    }

    #[test]
    fn long_text_keeps_its_head_and_tail() {
        let (cut, was_cut) = head_and_tail(&"é".repeat(1000), 100);
        assert!(was_cut && cut.starts_with('é') && cut.ends_with('é') && cut.contains("bytes cut"));
        assert_eq!(head_and_tail("short", 100), ("short".to_owned(), false));
    }
}
