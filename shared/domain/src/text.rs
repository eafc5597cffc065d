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

#[cfg(test)]
mod tests {
    use super::*;

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
