//! Reads the fields of one JSON object and refuses the ones that nobody asked for.

use serde_json::{Map, Value};

use super::problems::Problems;
use crate::limits;

/// One object of the definition. Every field that may stand in it must be asked for, present or not, before
/// [`Fields::finish`].
pub(super) struct Fields<'a> {
    /// What the object is, to begin a message with: empty for a state, else such as `"Retry 1: "`.
    place: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// None, with a problem, if `value` is not an object.
    pub(super) fn of(value: &'a Value, place: impl Into<String>, problems: &mut Problems) -> Option<Self> {
        let place = place.into();
        let map = value.as_object();
        if map.is_none() {
            problems.push(format!("{place}must be a JSON object"));
        }
        map.map(|map| Self { place, map, known: Vec::new() })
    }

    pub(super) fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.map.get(name)
    }

    pub(super) fn complain(&self, message: &str, problems: &mut Problems) {
        problems.push(format!("{}{message}", self.place));
    }

    /// A string field.
    pub(super) fn string(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.get(name)?;
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.complain(&format!("{name} must be a string that is not empty"), problems);
        }
        text
    }

    /// A string field that has to be there.
    pub(super) fn required_string(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'a str> {
        if !self.map.contains_key(name) {
            self.known.push(name);
            self.complain(&format!("{name} is missing"), problems);
            return None;
        }
        self.string(name, problems)
    }

    /// `Comment`, which is checked and forgotten. It may be empty.
    pub(super) fn comment(&mut self, problems: &mut Problems) {
        if self.get("Comment").is_some_and(|value| !value.is_string()) {
            self.complain("Comment must be a string", problems);
        }
    }

    /// A whole number of `min` to `max`.
    pub(super) fn whole(
        &mut self,
        name: &'static str,
        min: u64,
        max: u64,
        problems: &mut Problems,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let number = value.as_u64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.complain(&format!("{name} must be a whole number from {min} to {max}"), problems);
        }
        number
    }

    /// A number of seconds from 1 up.
    pub(super) fn seconds(&mut self, name: &'static str, problems: &mut Problems) -> Option<u64> {
        self.whole(name, 1, limits::MAX_SECONDS, problems)
    }

    /// Refuses every field that was not asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for name in self.map.keys() {
            if self.known.contains(&name.as_str()) {
                continue;
            }
            let hint = outside_the_subset(name).map_or_else(
                || format!("the fields it may have are {}", self.known.join(", ")),
                ToOwned::to_owned,
            );
            self.complain(&format!("the field {name:?} is not allowed here; {hint}"), problems);
        }
    }
}

/// Fields that are good ASL but left out here, and why.
fn outside_the_subset(name: &str) -> Option<&'static str> {
    Some(match name {
        "Arguments" | "Assign" | "Output" | "Condition" | "Items" => {
            "it belongs to JSONata and variables, which are not in the subset"
        }
        "QueryLanguage" => "only the machine itself may name it, and only as JSONPath",
        "HeartbeatSeconds" | "HeartbeatSecondsPath" => "heartbeats are not in the subset; use TimeoutSeconds",
        "TimeoutSecondsPath" => "only a literal TimeoutSeconds is in the subset",
        "MaxConcurrencyPath" => "only a literal MaxConcurrency is in the subset",
        "Iterator" => "it is the old name of ItemProcessor",
        "ItemReader"
        | "ItemBatcher"
        | "ResultWriter"
        | "ToleratedFailureCount"
        | "ToleratedFailurePercentage"
        | "Label" => "it belongs to the distributed Map, which is not in the subset",
        "Timestamp" | "TimestampPath" => "only Seconds and SecondsPath are in the subset",
        "ErrorPath" | "CausePath" => "only literal Error and Cause are in the subset",
        "Credentials" => "it is not in the subset",
        "Branches" => "Parallel is not in the subset",
        _ => return None,
    })
}
