//! Rules of approval: `tool` or `tool(pattern)`. A pattern is about text and not about what the text means: a shell has
//! many ways to write one command, so a pattern that refuses is a fence for the careless and no wall.

use serde_json::Value;

/// Splits `tool(pattern)`; the pattern is `None` for a bare name.
pub(super) fn split(rule: &str) -> (&str, Option<&str>) {
    match rule.split_once('(') {
        Some((tool, rest)) if rest.ends_with(')') => (tool, Some(&rest[..rest.len() - 1])),
        _ => (rule, None),
    }
}

/// Whether a pattern that makes a call harder fits: some text anywhere in `arguments` does. Case and the width of spaces
/// make no difference, and a list counts as its parts and as one line, which is what the tools make of it.
pub(super) fn touches(pattern: &str, arguments: &Value) -> bool {
    let folded = fold(pattern);
    let mut found = Vec::new();
    texts(arguments, &mut found);
    found.iter().any(|text| {
        glob(pattern.as_bytes(), text.as_bytes()) || glob(folded.as_bytes(), fold(text).as_bytes())
    })
}

/// Whether a pattern that makes a call easier fits. It has to fit `subject`, the argument that the call is about, and to
/// the letter: any other argument is the model's to fill with what the pattern wants to see. Of a tool without such an
/// argument every text has to fit.
pub(super) fn allows(pattern: &str, subject: Option<&str>, arguments: &Value) -> bool {
    let fits = |text: &String| glob(pattern.as_bytes(), text.as_bytes());
    if let Some(field) = subject {
        return arguments.get(field).and_then(line).is_some_and(|text| fits(&text));
    }
    let mut found = Vec::new();
    let values = arguments.as_object().into_iter().flat_map(serde_json::Map::values);
    values.for_each(|value| texts(value, &mut found));
    !found.is_empty() && found.iter().all(fits)
}

/// Every text in `value`: its scalars, each list as one line, and each pair of an object as `name=value`.
fn texts(value: &Value, found: &mut Vec<String>) {
    found.extend(line(value));
    match value {
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => {
            fields.values().for_each(|inner| texts(inner, found));
            let pairs = fields.iter().filter_map(|(name, inner)| Some(format!("{name}={}", scalar(inner)?)));
            found.extend(pairs);
        }
        _ => {}
    }
}

/// A scalar, or a list of scalars, as one line.
fn line(value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => {
            items.iter().map(scalar).collect::<Option<Vec<String>>>().map(|words| words.join(" "))
        }
        other => scalar(other),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Whether the whole of `text` fits `pattern`, in which `*` stands for any bytes.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_sees_every_text_however_it_is_written() {
        let refused = |arguments: Value| touches("*git push*--force*", &arguments);
        for arguments in [
            json!({"command": "git push --force"}),
            json!({"command": ["git", "push", "--force"]}),
            json!({"command": "git  push\t--FORCE"}),
            json!({"command": "true", "stdin": "git push --force"}),
            json!({"command": "sh", "env": ["RUN=git push --force"]}),
            json!({"command": "sh", "env": {"RUN": "git push --force"}}),
            json!({"files": [["git", "push", "--force"]]}),
        ] {
            assert!(refused(arguments.clone()), "{arguments}");
        }
        assert!(!refused(json!({"command": "git push"})));
        assert!(touches("A=1", &json!({"env": {"A": 1}})));
        assert!(touches("true", &json!({"force": true})));
    }

    #[test]
    fn a_permission_sees_only_what_the_call_is_about() {
        let allowed = |arguments: Value| allows("ls", Some("command"), &arguments);
        assert!(allowed(json!({"command": "ls", "working_dir": "/tmp"})));
        assert!(allowed(json!({"command": ["ls"]})));
        for arguments in [
            json!({"command": "rm -rf /", "working_dir": "ls"}),
            json!({"command": "rm -rf /", "env": ["ls"]}),
            json!({"command": ["ls", "&&", "rm"]}),
            json!({"command": "LS"}),
            json!({"command": {"a": "ls"}}),
            json!({}),
        ] {
            assert!(!allowed(arguments.clone()), "{arguments}");
        }
        assert!(allows("/workspace*", None, &json!({"path": "/workspace/a"})));
        assert!(!allows("/workspace*", None, &json!({"path": "/etc", "glob": "/workspace"})));
        assert!(!allows("*", None, &json!({})));
    }
}
