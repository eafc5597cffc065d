//! Recordings: what agents said and did in a conversation, as JSON files.
//!
//! ```json
//! {
//!   "name": "flask",
//!   "initial_message": "Build a Flask web app with user authentication",
//!   "agents": {
//!     "dev_agent": [
//!       { "text": "I'll begin.\n/vm mkdir -p app", "tool_calls": [] },
//!       { "text": "", "tool_calls": [{ "name": "read_file", "arguments": { "path": "README.md" } }] }
//!     ]
//!   }
//! }
//! ```
//!
//! `{{file:NAME}}` anywhere in a text stands for the contents of that file, relative to the recording's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// A recorded conversation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Its name, told when it is played.
    pub name: String,
    /// The message that it answers; compared without regard to blanks at the ends.
    pub initial_message: String,
    /// What each agent said, call by call.
    pub agents: BTreeMap<String, Vec<RecordedAnswer>>,
}

/// A recorded answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedAnswer {
    /// Its text.
    #[serde(default)]
    pub text: String,
    /// The calls it made.
    #[serde(default)]
    pub tool_calls: Vec<RecordedCall>,
}

/// A recorded tool call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCall {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}

/// A recording that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the recording {path}: {reason}")]
pub struct BadRecording {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Recordings by the message that they answer.
#[derive(Debug, Clone, Default)]
pub struct Library {
    recordings: Vec<Recording>,
}

impl Library {
    /// A library of these recordings.
    pub fn new(recordings: Vec<Recording>) -> Self {
        Self { recordings }
    }

    /// Reads every `*.json` file of a folder, in the order of their names.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(folder: &Path) -> Result<Self, BadRecording> {
        let bad = |path: &Path, reason: String| BadRecording { path: path.to_owned(), reason };
        let entries = std::fs::read_dir(folder).map_err(|error| bad(folder, error.to_string()))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        let mut recordings = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|error| bad(&path, error.to_string()))?;
            let mut value: Value =
                serde_json::from_str(&text).map_err(|error| bad(&path, error.to_string()))?;
            fill_in(&mut value, folder).map_err(|reason| bad(&path, reason))?;
            recordings.push(serde_json::from_value(value).map_err(|error| bad(&path, error.to_string()))?);
        }
        Ok(Self { recordings })
    }

    /// The recording that answers `message`. `whole` says whether `message` is all of it or only its beginning.
    pub fn find(&self, message: &str, whole: bool) -> Option<&Recording> {
        let message = message.trim();
        self.recordings.iter().find(|recording| {
            let known = recording.initial_message.trim();
            known == message || (!whole && known.starts_with(message))
        })
    }
}

/// Replaces `{{file:NAME}}` in every text of `value`.
fn fill_in(value: &mut Value, folder: &Path) -> Result<(), String> {
    match value {
        Value::String(text) => {
            if let Some(start) = text.find("{{file:") {
                let rest = &text[start + "{{file:".len()..];
                let Some(end) = rest.find("}}") else { return Err("{{file: without }}".to_owned()) };
                let name = &rest[..end];
                if name.contains("..") || name.starts_with('/') {
                    return Err(format!("{name} is outside of the recording's folder"));
                }
                let file =
                    std::fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
                // A file's text must not be taken for a further place to fill in, so it goes in after the rest is done.
                let mut after = Value::String(rest[end + 2..].to_owned());
                fill_in(&mut after, folder)?;
                let after = after.as_str().unwrap_or_default().to_owned();
                *text = format!("{}{}{after}", &text[..start], file.trim_end_matches('\n'));
            }
        }
        Value::Array(items) => {
            for item in items {
                fill_in(item, folder)?;
            }
        }
        Value::Object(fields) => {
            for field in fields.values_mut() {
                fill_in(field, folder)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_filled_in_and_not_read_for_places_themselves() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("parts")).unwrap();
        std::fs::write(folder.path().join("parts/a.html"), "{{file:b}} {% x %}\n").unwrap();
        std::fs::write(folder.path().join("parts/b.py"), "print(1)\n").unwrap();
        let json = r#"{"name": "n", "initial_message": " Do it ", "agents": {"a": [
            {"text": "/vm cat > a <<'EOF'\n{{file:parts/a.html}}\nEOF\n{{file:parts/b.py}}"}]}}"#;
        std::fs::write(folder.path().join("n.json"), json).unwrap();
        let library = Library::read(folder.path()).unwrap();
        let found = library.find("Do it", true).unwrap();
        assert_eq!(found.agents["a"][0].text, "/vm cat > a <<'EOF'\n{{file:b}} {% x %}\nEOF\nprint(1)");
        assert!(library.find("Do", true).is_none());
        assert!(library.find("Do", false).is_some());
        std::fs::write(folder.path().join("z.json"), r#"{"name": "{{file:../x}}"}"#).unwrap();
        assert!(Library::read(folder.path()).unwrap_err().to_string().contains("outside"));
    }
}
