//! State machines: loading a definition, which is refused as a whole if anything in it is outside the
//! subset or does not fit together.

mod choice;
mod error_handling;
mod fields;
mod flow;
mod graph;
mod problems;
mod state;
mod strict_json;
mod substitute;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use self::fields::Fields;
pub(crate) use self::flow::{Flow, Next};
use self::problems::Problems;
pub use self::problems::{DefinitionError, Problem};
pub(crate) use self::state::{Duration, Kind, Map, State, Task};
pub use self::summary::StateSummary;
use crate::context::ContextScope;
use crate::limits;

/// A state machine that was read and found good.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    definition: String,
    comment: Option<String>,
    timeout_seconds: Option<u64>,
    processor: Processor,
}

/// The states of a machine, or of a Map's iterations.
#[derive(Debug, Clone)]
pub(crate) struct Processor {
    pub(crate) start_at: String,
    states: BTreeMap<String, Arc<State>>,
}

impl Machine {
    /// Reads the definition `text`, filling each `${Name}` in it from `substitutions`.
    ///
    /// # Errors
    /// Everything that is wrong, each problem with its state.
    pub fn load(
        name: &str,
        text: &str,
        substitutions: &BTreeMap<String, String>,
    ) -> Result<Self, DefinitionError> {
        let mut problems = Problems::default();
        let machine = Self::read(name, text, substitutions, &mut problems);
        match machine {
            Some(machine) if problems.list.is_empty() => Ok(machine),
            _ => {
                if problems.list.is_empty() {
                    problems.push("it could not be read");
                }
                Err(DefinitionError { machine: name.to_owned(), problems: problems.list })
            }
        }
    }

    fn read(
        name: &str,
        text: &str,
        substitutions: &BTreeMap<String, String>,
        problems: &mut Problems,
    ) -> Option<Self> {
        if !crate::arn::is_valid_name(name) {
            problems.push("its name has characters that AWS does not take, or not 1 to 80 of them");
        }
        let mut value = match strict_json::parse(text) {
            Ok(value) => value,
            Err(message) => {
                problems.push(message);
                return None;
            }
        };
        substitute::substitute(&mut value, substitutions, problems);
        let mut fields = Fields::of(&value, "the machine: ", problems)?;
        let comment = fields.get("Comment").and_then(Value::as_str).map(ToOwned::to_owned);
        fields.comment(problems);
        if fields.get("Version").is_some_and(|version| version != "1.0") {
            fields.complain("Version must be \"1.0\"", problems);
        }
        if fields.get("QueryLanguage").is_some_and(|language| language != "JSONPath") {
            fields.complain("QueryLanguage must be \"JSONPath\"; JSONata is not in the subset", problems);
        }
        let timeout_seconds = fields.seconds("TimeoutSeconds", problems);
        let processor = Processor::parse(&mut fields, ContextScope::default(), problems);
        fields.finish(problems);
        let processor = processor?;
        processor.check_names(&mut BTreeSet::new(), problems);
        let definition = value.to_string();
        Some(Self { name: name.to_owned(), definition, comment, timeout_seconds, processor })
    }

    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The definition with every substitution made, as compact JSON.
    pub fn definition(&self) -> &str {
        &self.definition
    }

    /// The machine's comment.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// How long an execution may last, in seconds.
    pub fn timeout_seconds(&self) -> Option<u64> {
        self.timeout_seconds
    }

    /// The names of all functions that its tasks call.
    pub fn function_names(&self) -> BTreeSet<String> {
        self.states().into_iter().filter_map(|state| state.function).collect()
    }

    /// All states, those inside Maps included, for checks of definitions against tables and templates.
    pub fn states(&self) -> Vec<StateSummary> {
        summary::summarise(&self.processor)
    }

    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }
}

impl Processor {
    /// Reads `StartAt` and `States`.
    fn parse(fields: &mut Fields<'_>, scope: ContextScope, problems: &mut Problems) -> Option<Self> {
        let start_at = fields.required_string("StartAt", problems).map(ToOwned::to_owned);
        let Some(bodies) =
            fields.get("States").and_then(Value::as_object).filter(|states| !states.is_empty())
        else {
            fields.complain("States must be a JSON object with at least one state", problems);
            return None;
        };
        let names: BTreeSet<String> = bodies.keys().cloned().collect();
        let mut states = BTreeMap::new();
        for (name, body) in bodies {
            let outer = problems.state.replace(name.clone());
            let chars = name.chars().count();
            if !(1..=limits::MAX_NAME_CHARS).contains(&chars) {
                problems.push("a state's name has 1 to 80 characters");
            }
            if let Some(state) = State::parse(name, body, scope, problems) {
                states.insert(name.clone(), Arc::new(state));
            }
            problems.state = outer;
        }
        let start_at = start_at?;
        graph::check(&start_at, &names, &states, problems);
        Some(Self { start_at, states })
    }

    /// A state by name. The graph was checked, so the names in a definition are always found; a name out of
    /// the store may not be, if the file was tampered with.
    pub(crate) fn state(&self, name: &str) -> Option<&Arc<State>> {
        self.states.get(name)
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<State>> {
        self.states.values()
    }

    /// AWS wants a state's name to be unique in the whole machine, over all Maps.
    fn check_names<'a>(&'a self, seen: &mut BTreeSet<&'a str>, problems: &mut Problems) {
        for state in self.states() {
            if !seen.insert(&state.name) {
                problems.state = Some(state.name.clone());
                problems.push("another state of the machine has the same name");
                problems.state = None;
            }
            if let Kind::Map(map) = &state.kind {
                map.processor.check_names(seen, problems);
            }
        }
    }
}
