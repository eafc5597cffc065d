//! Payload templates: `Parameters`, `ItemSelector` and `ResultSelector`, where a field whose name ends in
//! `.$` takes its value from a path.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::path::{Path, Root};

/// A template, read once at load.
#[derive(Debug, Clone)]
pub(crate) enum Template {
    Literal(Value),
    Object(Vec<(String, Entry)>),
    Array(Vec<Self>),
}

/// The value of one field of a template object.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Nested(Template),
    Path(Path),
}

impl Template {
    /// Reads a template; each problem is told as a clause with the field's name.
    pub(crate) fn parse(value: &Value, problems: &mut Vec<String>) -> Self {
        match value {
            Value::Object(fields) => {
                let mut entries = Vec::with_capacity(fields.len());
                for (name, value) in fields {
                    let Some(plain) = name.strip_suffix(".$") else {
                        entries.push((name.clone(), Entry::Nested(Self::parse(value, problems))));
                        continue;
                    };
                    if fields.contains_key(plain) {
                        problems.push(format!("gives both {plain:?} and {name:?}"));
                    }
                    match value.as_str().map(Path::parse) {
                        Some(Ok(path)) => entries.push((plain.to_owned(), Entry::Path(path))),
                        Some(Err(reason)) => problems.push(format!("field {name:?}: {reason}")),
                        None => problems.push(format!("field {name:?} must be a string that holds a path")),
                    }
                }
                Self::Object(entries)
            }
            Value::Array(items) => {
                Self::Array(items.iter().map(|item| Self::parse(item, problems)).collect())
            }
            literal => Self::Literal(literal.clone()),
        }
    }

    /// Every path in the template, in order.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Array(items) => items.iter().flat_map(Self::paths).collect(),
            Self::Object(entries) => entries
                .iter()
                .flat_map(|(_, entry)| match entry {
                    Entry::Nested(template) => template.paths(),
                    Entry::Path(path) => vec![path],
                })
                .collect(),
        }
    }

    /// The template filled from `input` and the context object.
    pub(crate) fn fill(&self, input: &Value, context: &Value) -> Result<Value, Failure> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Array(items) => {
                items.iter().map(|item| item.fill(input, context)).collect::<Result<_, _>>().map(Value::Array)
            }
            Self::Object(entries) => {
                let mut filled = Map::with_capacity(entries.len());
                for (name, entry) in entries {
                    let value = match entry {
                        Entry::Nested(template) => template.fill(input, context)?,
                        Entry::Path(path) => resolve(path, &format!("{name}.$"), input, context)?.clone(),
                    };
                    filled.insert(name.clone(), value);
                }
                Ok(Value::Object(filled))
            }
        }
    }
}

/// The value at `path`, or the error that AWS gives for a path that leads nowhere.
pub(crate) fn resolve<'a>(
    path: &Path,
    field: &str,
    input: &'a Value,
    context: &'a Value,
) -> Result<&'a Value, Failure> {
    let (document, name) = match path.root() {
        Root::Input => (input, "input"),
        Root::Context => (context, "context object"),
    };
    path.find(document).ok_or_else(|| {
        Failure::runtime(format!(
            "{field} is {:?}, but the {name} has nothing at that path: {}",
            path.text(),
            excerpt(document)
        ))
    })
}

/// Enough of a document to find the mistake by, without flooding the cause.
fn excerpt(document: &Value) -> String {
    const MAX_CHARS: usize = 512;
    let text = document.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
