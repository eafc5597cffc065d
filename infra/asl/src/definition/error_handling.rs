//! `Retry` and `Catch`.

use serde_json::Value;

use super::fields::Fields;
use super::problems::Problems;
use crate::failure;
use crate::limits;
use crate::path::ReferencePath;
use crate::retry::{Backoff, Jitter};

/// One entry of `Retry`.
#[derive(Debug, Clone)]
pub(crate) struct Retrier {
    pub(crate) error_equals: Vec<String>,
    pub(crate) backoff: Backoff,
}

/// One entry of `Catch`.
#[derive(Debug, Clone)]
pub(crate) struct Catcher {
    pub(crate) error_equals: Vec<String>,
    pub(crate) next: String,
    /// None is `ResultPath: null`: the error is thrown away.
    pub(crate) result_path: Option<ReferencePath>,
}

pub(super) fn retriers(value: Option<&Value>, problems: &mut Problems) -> Vec<Retrier> {
    let entries = entries(value, "Retry", problems);
    let last = entries.len();
    entries
        .into_iter()
        .enumerate()
        .filter_map(|(index, entry)| {
            let place = format!("Retry {}: ", index + 1);
            let mut fields = Fields::of(entry, place, problems)?;
            let error_equals = error_names(&mut fields, index + 1 == last, problems);
            let backoff = backoff(&mut fields, problems);
            fields.comment(problems);
            fields.finish(problems);
            Some(Retrier { error_equals, backoff })
        })
        .collect()
}

fn backoff(fields: &mut Fields<'_>, problems: &mut Problems) -> Backoff {
    let interval_seconds = fields.seconds("IntervalSeconds", problems).unwrap_or(1);
    let max_attempts = fields.whole("MaxAttempts", 0, limits::MAX_SECONDS, problems).unwrap_or(3);
    let backoff_rate = match fields.get("BackoffRate") {
        None => 2.0,
        Some(value) => value.as_f64().filter(|rate| *rate >= 1.0).unwrap_or_else(|| {
            fields.complain("BackoffRate must be a number of at least 1", problems);
            1.0
        }),
    };
    let max_delay_seconds = fields.whole("MaxDelaySeconds", 1, limits::MAX_RETRY_DELAY_SECONDS, problems);
    if max_delay_seconds.is_some_and(|max| max <= interval_seconds) {
        fields.complain("MaxDelaySeconds must be greater than IntervalSeconds", problems);
    }
    let jitter = match fields.get("JitterStrategy").map(Value::as_str) {
        None | Some(Some("NONE")) => Jitter::None,
        Some(Some("FULL")) => Jitter::Full,
        Some(_) => {
            fields.complain("JitterStrategy must be \"FULL\" or \"NONE\"", problems);
            Jitter::None
        }
    };
    Backoff { interval_seconds, max_attempts, backoff_rate, max_delay_seconds, jitter }
}

pub(super) fn catchers(value: Option<&Value>, problems: &mut Problems) -> Vec<Catcher> {
    let entries = entries(value, "Catch", problems);
    let last = entries.len();
    entries
        .into_iter()
        .enumerate()
        .filter_map(|(index, entry)| {
            let mut fields = Fields::of(entry, format!("Catch {}: ", index + 1), problems)?;
            let error_equals = error_names(&mut fields, index + 1 == last, problems);
            let next = fields.required_string("Next", problems).unwrap_or_default().to_owned();
            let result_path = super::flow::result_path(&mut fields, problems);
            fields.comment(problems);
            fields.finish(problems);
            Some(Catcher { error_equals, next, result_path })
        })
        .collect()
}

fn entries<'a>(value: Option<&'a Value>, name: &str, problems: &mut Problems) -> Vec<&'a Value> {
    match value {
        None => Vec::new(),
        Some(Value::Array(entries)) if !entries.is_empty() => entries.iter().collect(),
        Some(_) => {
            problems.push(format!("{name} must be a list that is not empty"));
            Vec::new()
        }
    }
}

fn error_names(fields: &mut Fields<'_>, is_last: bool, problems: &mut Problems) -> Vec<String> {
    let given: &[Value] = fields.get("ErrorEquals").and_then(Value::as_array).map_or(&[], Vec::as_slice);
    let names: Vec<String> = given
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    if names.is_empty() || names.len() != given.len() {
        fields.complain("ErrorEquals must be a list of error names that is not empty", problems);
    }
    for name in &names {
        if name == failure::RUNTIME {
            fields.complain("ErrorEquals lists States.Runtime, which always ends the execution", problems);
        } else if name.starts_with("States.") && !failure::RESERVED_NAMES.contains(&name.as_str()) {
            fields.complain(&format!("ErrorEquals lists {name:?}, which is no error of States."), problems);
        }
    }
    if names.iter().any(|name| name == failure::ALL) && (names.len() > 1 || !is_last) {
        fields.complain("States.ALL must stand alone, in the last entry", problems);
    }
    names
}
