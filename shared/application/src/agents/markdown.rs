//! Agents as Markdown files: front matter between `---` lines, then the system prompt.
//!
//! The front matter is the part of YAML that definitions need: `key: value` with text (bare or quoted), numbers, `true`
//! and `false`; lists as `[a, b]` or as `- a` lines; one level of `key: value` below a key. Anything else is an error with
//! its line, and so is an unknown key. `name` is taken for `agent_id`, as other systems write it.

use pvm_domain::agent::AgentDefinition;
use serde_json::{Map, Value};

/// What is wrong with an agent's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadMarkdown {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

fn bad(line: usize, reason: impl Into<String>) -> BadMarkdown {
    BadMarkdown { line: line + 1, reason: reason.into() }
}

/// Reads an agent's file.
///
/// # Errors
/// Names the line and what is wrong with it.
pub fn parse_markdown(file: &str) -> Result<AgentDefinition, BadMarkdown> {
    let lines: Vec<&str> = file.lines().collect();
    if lines.first().map(|line| line.trim_end()) != Some("---") {
        return Err(bad(0, "the file must begin with a line `---` and its front matter"));
    }
    let end = lines.iter().skip(1).position(|line| line.trim_end() == "---").map(|at| at + 1);
    let end = end.ok_or_else(|| bad(lines.len(), "the front matter has no closing `---`"))?;
    let mut fields = front_matter(&lines[..end])?;
    if let Some(name) = fields.remove("name") {
        fields.insert("agent_id".to_owned(), name);
    }
    if fields.contains_key("system_prompt") {
        return Err(bad(0, "the prompt is the text below the front matter, not a key of it"));
    }
    let prompt = lines[end + 1..].join("\n").trim().to_owned();
    fields.insert("system_prompt".to_owned(), Value::String(prompt));
    let agent: AgentDefinition =
        serde_json::from_value(Value::Object(fields)).map_err(|error| bad(0, error.to_string()))?;
    agent.check().map_err(|invalid| bad(0, invalid.to_string()))?;
    Ok(agent)
}

fn front_matter(lines: &[&str]) -> Result<Map<String, Value>, BadMarkdown> {
    let mut fields = Map::new();
    let mut at = 1;
    while at < lines.len() {
        let line = lines[at];
        if is_blank(line) {
            at += 1;
            continue;
        }
        if line.starts_with([' ', '\t']) {
            return Err(bad(at, "this line is indented, but nothing above it takes lines below"));
        }
        let (key, value) = pair(at, line)?;
        let below = lines[at + 1..].iter().take_while(|line| line.starts_with(' ') || is_blank(line)).count();
        let has_lines_below = lines[at + 1..=at + below].iter().any(|line| !is_blank(line));
        let (value, skipped) = if value.is_empty() && has_lines_below {
            (nested(&lines[at + 1..=at + below], at + 1)?, below)
        } else {
            (scalar(at, value)?, 0)
        };
        if fields.insert(key.to_owned(), value).is_some() {
            return Err(bad(at, format!("{key} stands here twice")));
        }
        at += 1 + skipped;
    }
    Ok(fields)
}

fn is_blank(line: &str) -> bool {
    let text = line.trim();
    text.is_empty() || text.starts_with('#')
}

/// Splits `key: value`. A key may be quoted, so that it can have a colon.
fn pair(at: usize, line: &str) -> Result<(&str, &str), BadMarkdown> {
    let text = line.trim();
    let (key, rest) = match text.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((key, rest)) => (key, rest.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((key, rest)) => (key.trim_end(), Some(rest)),
            None => (text, None),
        },
    };
    match rest {
        Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t']) => Ok((key, rest.trim())),
        _ => Err(bad(at, "this must have the form `key: value`")),
    }
}

/// A list of `- item` lines or a map of `key: value` lines below a key.
fn nested(lines: &[&str], first: usize) -> Result<Value, BadMarkdown> {
    let items: Vec<(usize, &str)> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !is_blank(line))
        .map(|(at, line)| (first + at, line.trim()))
        .collect();
    if items.iter().all(|(_, text)| text.starts_with("- ")) {
        let list: Result<Vec<Value>, _> =
            items.iter().map(|(at, text)| scalar(*at, text[2..].trim())).collect();
        return list.map(Value::Array);
    }
    let mut map = Map::new();
    for (at, text) in items {
        let (key, value) = pair(at, text)?;
        map.insert(key.to_owned(), scalar(at, value)?);
    }
    Ok(Value::Object(map))
}

fn scalar(at: usize, text: &str) -> Result<Value, BadMarkdown> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(|| bad(at, "this list has no closing `]`"))?;
        let items = inner.split(',').map(str::trim).filter(|item| !item.is_empty());
        return items.map(|item| scalar(at, item)).collect::<Result<Vec<_>, _>>().map(Value::Array);
    }
    if text.starts_with('"') {
        return serde_json::from_str(text).map_err(|_| bad(at, "this text has no good closing quote"));
    }
    if let Some(inner) = text.strip_prefix('\'') {
        let inner = inner.strip_suffix('\'').ok_or_else(|| bad(at, "this text has no closing quote"))?;
        return Ok(Value::String(inner.replace("''", "'")));
    }
    if text.starts_with(['{', '&', '*', '|', '>', '!']) {
        return Err(bad(at, "this form of YAML is not taken here; use plain or quoted text, or a list"));
    }
    Ok(match text {
        "" | "null" | "~" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => match serde_json::from_str::<serde_json::Number>(text) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::String(text.to_owned()),
        },
    })
}

#[cfg(test)]
mod tests {
    use pvm_domain::agent::ApprovalPolicy;

    use super::*;

    #[test]
    fn a_file_with_every_kind_of_field_is_read() {
        let file = "---\nname: helper\ndescription: \"Helps: always\"\nmodel: anthropic/x\ntools: [read_file, write_file]\n\
                    denied_tools:\n  - git_operations\napprovals:\n  execute_command: ask\n  \"execute_command(rm *)\": deny\n\
                    temperature: 0.5\n# a comment\nmax_turns: 3\ntimeout: 90\nbudget:\n  tokens: 20000\n  seconds: 600\n---\n\n# You help\n---\nAlways.\n";
        let agent = parse_markdown(file).unwrap();
        assert_eq!((agent.agent_id.as_str(), agent.description.as_str()), ("helper", "Helps: always"));
        assert_eq!(
            agent.tools.as_deref(),
            Some(["read_file".to_owned(), "write_file".to_owned()].as_slice())
        );
        assert_eq!(agent.denied_tools, ["git_operations"]);
        assert_eq!(agent.approvals["execute_command(rm *)"], ApprovalPolicy::Deny);
        assert_eq!((agent.temperature, agent.max_turns, agent.timeout_secs), (Some(0.5), Some(3), Some(90)));
        let budget = agent.budget.unwrap();
        assert_eq!((budget.tokens, budget.seconds, budget.turns), (Some(20_000), Some(600), None));
        assert_eq!(agent.system_prompt, "# You help\n---\nAlways.");
    }

    #[test]
    fn a_bad_file_names_what_is_wrong() {
        for (file, part) in [
            ("name: x", "begin with a line"),
            ("---\nname: x\n", "closing"),
            ("---\nname: x\nallowed-tools: []\n---\n", "allowed-tools"),
            ("---\nname: X\n---\n", "agent_id"),
            ("---\nname: x\nname: y\n---\n", "twice"),
            ("---\nname: x\ntools: [a\n---\n", "closing `]`"),
            ("---\nname: x\ntimeout: 0\n---\n", "timeout_secs: must be 1 to 300"),
            ("---\nname: x\ntimeout: 5m\n---\n", "u64"),
            ("---\nname: x\nbudget:\n  dollars: 5\n---\n", "dollars"),
            ("---\nname: x\nbudget: 5\n---\n", "Budget"),
            ("---\nname: x\ndescription: |\n  long\n---\n", "form of YAML"),
        ] {
            let error = parse_markdown(file).unwrap_err().to_string();
            assert!(error.contains(part), "{file:?}: {error}");
        }
    }
}
