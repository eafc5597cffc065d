//! What runs cost, and the budgets that bound them.

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// What a run, or all runs of a conversation, used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Usage {
    /// Turns that agents took.
    pub turns: u32,
    /// Model calls that were answered.
    pub model_calls: u32,
    /// Tool calls that were planned.
    pub tool_calls: u32,
    /// Tokens sent to models, cached ones included.
    pub input_tokens: u64,
    /// Tokens that models answered.
    pub output_tokens: u64,
    /// Tokens of the requests that came from providers' caches.
    pub cache_read_tokens: u64,
    /// Price of the model calls in millionths of a US dollar; calls of models without a known price count 0.
    pub cost_microusd: u64,
    /// Milliseconds between the run's begin and end, without those that it waited for a person.
    pub active_ms: u64,
    /// Milliseconds that workflow steps worked.
    pub step_ms: u64,
    /// State transitions of the workflow, as the state machine's graph counts them.
    pub transitions: u32,
    /// Units of database writes and reads, estimated from the number and size of the records.
    pub store_units: u64,
    /// Milliseconds that the run held the VM.
    pub vm_ms: u64,
}

impl Usage {
    /// Tokens of both directions.
    pub fn tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens
    }

    /// What a lane adds to its parallel run: all but the time, in which the run itself is active.
    #[must_use]
    pub fn of_lane(&self) -> Self {
        Self { active_ms: 0, ..*self }
    }

    /// Adds what another run used.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.model_calls += other.model_calls;
        self.tool_calls += other.tool_calls;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cost_microusd += other.cost_microusd;
        self.active_ms += other.active_ms;
        self.step_ms += other.step_ms;
        self.transitions += other.transitions;
        self.store_units += other.store_units;
        self.vm_ms += other.vm_ms;
    }
}

/// The most that all runs of a conversation together may use. Absent fields are without limit. A budget is checked
/// before each model call: the call that crosses it is the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Turns.
    #[serde(default)]
    pub turns: Option<u32>,
    /// Tokens of both directions.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Price of the model calls in millionths of a US dollar.
    #[serde(default)]
    pub cost_microusd: Option<u64>,
    /// Seconds that runs were active, without waiting for a person.
    #[serde(default)]
    pub seconds: Option<u64>,
}

impl Budget {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the field that is 0.
    pub fn check(&self) -> Result<(), Invalid> {
        let zero = [
            ("budget.turns", self.turns == Some(0)),
            ("budget.tokens", self.tokens == Some(0)),
            ("budget.cost_microusd", self.cost_microusd == Some(0)),
            ("budget.seconds", self.seconds == Some(0)),
        ];
        match zero.iter().find(|(_, is_zero)| *is_zero) {
            Some((field, _)) => Err(Invalid::new(*field, "must be at least 1; leave it out for no limit")),
            None => Ok(()),
        }
    }

    /// The name of the first limit that `used` has reached, if any: why no further call is made.
    pub fn reached_by(&self, used: &Usage) -> Option<&'static str> {
        let over = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        if over(self.tokens, used.tokens()) {
            Some("budget_tokens")
        } else if over(self.cost_microusd, used.cost_microusd) {
            Some("budget_cost")
        } else if over(self.seconds, used.active_ms / 1000) {
            Some("budget_seconds")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_reached_by_what_was_used() {
        let budget = Budget { tokens: Some(10), ..Budget::default() };
        assert_eq!(budget.reached_by(&Usage { input_tokens: 4, output_tokens: 5, ..Usage::default() }), None);
        assert_eq!(
            budget.reached_by(&Usage { input_tokens: 4, output_tokens: 6, ..Usage::default() }),
            Some("budget_tokens")
        );
        assert!(Budget { seconds: Some(0), ..Budget::default() }.check().is_err());
    }
}
