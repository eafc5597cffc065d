//! What is wrong with a definition, all of it at once.

use std::fmt;

/// Why a definition was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DefinitionError {
    /// The name that the machine was to be loaded under.
    pub machine: String,
    /// Every problem found; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state machine {:?} is refused:", self.machine)?;
        for problem in &self.problems {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The state it is in; None if it is in the machine itself.
    pub state: Option<String>,
    /// A sentence without a full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            Some(state) => write!(f, "state {state:?}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Collects problems, together with the state that is being read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) list: Vec<Problem>,
    pub(super) state: Option<String>,
}

impl Problems {
    pub(super) fn push(&mut self, message: impl Into<String>) {
        self.list.push(Problem { state: self.state.clone(), message: message.into() });
    }
}
