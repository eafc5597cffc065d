//! The part of JSONPath that definitions may use: paths that name exactly one place.
//!
//! Wildcards, slices, filters and recursive descent are left out on purpose: they can yield any number of
//! values, and engines differ in what they make of zero or one of them.

use serde_json::{Map, Value};

/// What a path starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// `$`: the state's input (or its result, or output, depending on the field).
    Input,
    /// `$$`: the context object.
    Context,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// `.name` or `['name']`.
    Field(String),
    /// `[3]`, counted from zero.
    Index(usize),
}

/// A path such as `$.step.items[0]` or `$$.Execution.Name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: String,
    root: Root,
    segments: Vec<Segment>,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// A clause that says what is wrong, to be put behind the name of the field it came from.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("States.") {
            return Err(format!("{text:?} is an intrinsic function; intrinsics are not in the subset"));
        }
        let (root, rest) = match text.strip_prefix("$$") {
            Some(rest) => (Root::Context, rest),
            None => match text.strip_prefix('$') {
                Some(rest) => (Root::Input, rest),
                None => return Err(format!("{text:?} is not a path: it must start with $")),
            },
        };
        let segments = parse_segments(text, rest)?;
        Ok(Self { text: text.to_owned(), root, segments })
    }

    /// `$`.
    pub(crate) fn root_of_input() -> Self {
        Self { text: "$".to_owned(), root: Root::Input, segments: Vec::new() }
    }

    /// Whether this is `$`.
    pub(crate) fn is_whole_input(&self) -> bool {
        self.root == Root::Input && self.segments.is_empty()
    }

    /// The path as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the path starts from.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The steps from the root; empty for `$` and `$$`.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The place named by this path in `document`, which must be what the root stands for.
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.segments.iter().try_fold(document, |value, segment| match segment {
            Segment::Field(name) => value.as_object()?.get(name),
            Segment::Index(index) => value.as_array()?.get(*index),
        })
    }
}

fn parse_segments(text: &str, rest: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    let mut rest = rest;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            if after.starts_with('.') {
                return Err(format!("{text:?} uses recursive descent (..), which is not in the subset"));
            }
            let end = after.find(|c: char| !is_name_char(c)).unwrap_or(after.len());
            let (name, tail) = after.split_at(end);
            if name.is_empty() {
                return Err(match tail.chars().next() {
                    Some('*') => format!("{text:?} uses a wildcard, which is not in the subset"),
                    _ => format!("{text:?} has no field name after a dot"),
                });
            }
            segments.push(Segment::Field(name.to_owned()));
            rest = tail;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (segment, tail) = parse_bracket(text, after)?;
            segments.push(segment);
            rest = tail;
        } else {
            return Err(format!("{text:?} has {:?} where a dot or a bracket belongs", first_char(rest)));
        }
    }
    Ok(segments)
}

fn parse_bracket<'a>(text: &str, after: &'a str) -> Result<(Segment, &'a str), String> {
    if let Some(quote) = after.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let body = &after[1..];
        let end = body.find(quote).ok_or_else(|| format!("{text:?} has a quote that is not closed"))?;
        let (name, tail) = (&body[..end], &body[end + 1..]);
        if name.is_empty() || name.contains('\\') {
            return Err(format!("{text:?} has an empty or escaped name in brackets"));
        }
        let tail = tail
            .strip_prefix(']')
            .ok_or_else(|| format!("{text:?} must close its bracket after one quoted name"))?;
        return Ok((Segment::Field(name.to_owned()), tail));
    }
    let end = after.find(']').ok_or_else(|| format!("{text:?} has a bracket that is not closed"))?;
    let (body, tail) = (&after[..end], &after[end + 1..]);
    if body.is_empty() || !body.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "{text:?} has [{body}]; only a plain index such as [0] or a quoted name is in the subset"
        ));
    }
    let index = body.parse().map_err(|_| format!("{text:?} has an index that is too large"))?;
    Ok((Segment::Index(index), tail))
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

fn first_char(text: &str) -> char {
    text.chars().next().unwrap_or(' ')
}

/// Where `ResultPath` puts a value: field names only, below the input. Empty means "replace everything".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencePath {
    text: String,
    fields: Vec<String>,
}

impl ReferencePath {
    /// Reads a path that can be written to.
    ///
    /// # Errors
    /// A clause that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = Path::parse(text)?;
        if path.root == Root::Context {
            return Err(format!("{text:?} points into the context object, which cannot be written"));
        }
        let fields = path
            .segments
            .into_iter()
            .map(|segment| match segment {
                Segment::Field(name) => Ok(name),
                Segment::Index(_) => {
                    Err(format!("{text:?} has an index; only field names can be written to"))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), fields })
    }

    /// `$`, which replaces the whole document.
    pub(crate) fn root() -> Self {
        Self { text: "$".to_owned(), fields: Vec::new() }
    }

    /// Whether this is `$`.
    pub(crate) fn is_whole_document(&self) -> bool {
        self.fields.is_empty()
    }

    /// The path as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `document` with `value` at this place; missing objects on the way are made.
    /// None if something on the way is there and not an object.
    pub fn put(&self, document: Value, value: Value) -> Option<Value> {
        let mut document = document;
        let mut place = &mut document;
        for field in &self.fields {
            place = place.as_object_mut()?.entry(field.as_str()).or_insert_with(|| Value::Object(Map::new()));
        }
        *place = value;
        Some(document)
    }
}
