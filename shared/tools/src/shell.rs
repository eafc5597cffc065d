//! Words of the shell: quoting, and the values that must never be taken for an option.

use pvm_domain::Invalid;

/// `text` as one word of a POSIX shell, whatever it contains.
pub(crate) fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./=:@%+,".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Several words, quoted and separated by spaces.
pub(crate) fn quote_all<T: AsRef<str>>(words: &[T]) -> String {
    words.iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Checks a value that becomes an argument of a program: not empty, no control characters, and not something that
/// the program would take for an option.
pub(crate) fn operand<'a>(field: &str, text: &'a str) -> Result<&'a str, Invalid> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if text.starts_with('-') {
        return Err(Invalid::new(field, "must not start with `-`; use execute_command to pass options"));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "must not contain control characters"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_any_text_one_word() {
        assert_eq!(quote("a-b/c.py"), "a-b/c.py");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quote_all(&["a b", "c"]), "'a b' c");
        assert_eq!(quote("*"), "'*'");
        assert_eq!(quote("~"), "'~'");
    }

    #[test]
    fn an_operand_cannot_be_an_option() {
        assert!(operand("url", "--upload-pack=x").is_err());
        assert!(operand("url", " ").is_err());
        assert!(operand("url", "a\nb").is_err());
        assert_eq!(operand("url", " x "), Ok("x"));
    }
}
