//! The query of `GET /v2/sandboxes`, built by clients and read by servers.
//!
//! `metadata` is a map in three layers of percent-encoding: each key and value is quoted, the pairs are joined
//! as `k=v&k2=v2` and that text is encoded again, and the whole is encoded once more as one query value.

use std::collections::BTreeMap;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::control::SandboxState;

/// Most rows of one page.
pub const MAX_LIMIT: u32 = 100;

/// What a quoted key or value keeps as it is.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Order by start time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// All of these labels.
    pub metadata: BTreeMap<String, String>,
    /// Any of these states; empty means all.
    pub states: Vec<SandboxState>,
    /// Order by start time.
    pub order: SortOrder,
    /// Only ones started then or later.
    pub started_after: Option<Timestamp>,
    /// Only ones of this template id or alias.
    pub template: Option<String>,
    /// Rows per page, 1 to [`MAX_LIMIT`]; absent means [`MAX_LIMIT`].
    pub limit: Option<u32>,
    /// Cursor from `X-Next-Token`.
    pub next_token: Option<String>,
}

/// A query parameter is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query parameter {parameter}: {problem}")]
pub struct ListQueryError {
    /// Which one.
    pub parameter: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn wrong(parameter: &'static str, problem: impl Into<String>) -> ListQueryError {
    ListQueryError { parameter, problem: problem.into() }
}

impl ListQuery {
    /// Reads a raw query string (the part after `?`). Unknown parameters are ignored; `state` may be repeated.
    ///
    /// # Errors
    /// [`ListQueryError`] naming the parameter that is wrong.
    pub fn parse(raw: &str) -> Result<Self, ListQueryError> {
        let mut query = Self::default();
        for (key, value) in parameters(raw) {
            match key.as_str() {
                "metadata" => query.metadata = parse_metadata(&value)?,
                "state" => {
                    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                        query.states.push(match word {
                            "running" => SandboxState::Running,
                            "paused" => SandboxState::Paused,
                            other => {
                                return Err(wrong(
                                    "state",
                                    format!("{other:?} is neither running nor paused"),
                                ));
                            }
                        });
                    }
                }
                "order" | "sortOrder" => {
                    query.order = match value.as_str() {
                        "asc" => SortOrder::Ascending,
                        "desc" | "" => SortOrder::Descending,
                        other => return Err(wrong("order", format!("{other:?} is neither asc nor desc"))),
                    }
                }
                "startedAfter" => {
                    let time = value.parse().map_err(|_| wrong("startedAfter", "not an ISO 8601 time"))?;
                    query.started_after = Some(time);
                }
                "template" => query.template = Some(value).filter(|text| !text.is_empty()),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    query.limit = Some(limit.ok_or_else(|| wrong("limit", "must be 1 to 100"))?);
                }
                "nextToken" => query.next_token = Some(value).filter(|text| !text.is_empty()),
                _ => {}
            }
        }
        Ok(query)
    }

    /// The raw query string, without `?`; empty when nothing is asked for.
    pub fn to_query_string(&self) -> String {
        let mut parts = Vec::new();
        if !self.metadata.is_empty() {
            parts.push(format!("metadata={}", quote(&format_metadata(&self.metadata))));
        }
        if !self.states.is_empty() {
            let words: Vec<_> = self
                .states
                .iter()
                .map(|state| match state {
                    SandboxState::Running => "running",
                    SandboxState::Paused => "paused",
                })
                .collect();
            parts.push(format!("state={}", quote(&words.join(","))));
        }
        if self.order == SortOrder::Ascending {
            parts.push("order=asc".into());
        }
        if let Some(time) = self.started_after {
            parts.push(format!("startedAfter={}", quote(&time.to_string())));
        }
        if let Some(template) = &self.template {
            parts.push(format!("template={}", quote(template)));
        }
        if let Some(limit) = self.limit {
            parts.push(format!("limit={limit}"));
        }
        if let Some(token) = &self.next_token {
            parts.push(format!("nextToken={}", quote(token)));
        }
        parts.join("&")
    }
}

/// Reads the `metadata` value after the ordinary query decoding.
///
/// # Errors
/// [`ListQueryError`] when a pair has no `=` or the encoding is not UTF-8.
pub fn parse_metadata(value: &str) -> Result<BTreeMap<String, String>, ListQueryError> {
    let text = unquote(value)?;
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| wrong("metadata", format!("{pair:?} is not key=value")))?;
            Ok((unquote(key)?, unquote(value)?))
        })
        .collect()
}

/// The `metadata` value before the ordinary query encoding.
pub fn format_metadata(metadata: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = metadata
        .iter()
        .map(|(key, value)| format!("{}={}", quote(&quote(key)), quote(&quote(value))))
        .collect();
    pairs.join("&")
}

fn quote(text: &str) -> String {
    utf8_percent_encode(text, QUOTED).to_string()
}

/// Undoes one layer. `+` is a space in every layer, as the SDKs' encoders write it.
fn unquote(text: &str) -> Result<String, ListQueryError> {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| wrong("metadata", "not UTF-8 after percent-decoding"))
}

/// Takes a raw query string apart and undoes its one ordinary layer of encoding.
pub fn parameters(raw: &str) -> impl Iterator<Item = (String, String)> + '_ {
    raw.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        (decode(key), decode(value))
    })
}
