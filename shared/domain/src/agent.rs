//! Agent definitions: who can take part in a conversation.

mod rules;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conversation::Budget;
use crate::{Invalid, limits};

/// What happens when an agent wants to use a tool; later ones are stricter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalPolicy {
    /// It runs.
    Auto,
    /// A person is asked first.
    Ask,
    /// It is refused.
    Deny,
}

/// An agent: a prompt, a model, and what it may do. Versions are immutable; a run pins the ones it uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentDefinition {
    /// Its name and id: `[a-z0-9_-]{1,64}`.
    pub agent_id: String,
    /// Name shown to people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// What it is good at; other agents and the moderator choose by it.
    #[serde(default)]
    pub description: String,
    /// `provider/model`, such as `anthropic/claude-sonnet-5` or `replay/demo`; absent is the install's default.
    #[serde(default)]
    pub model: Option<String>,
    /// Its system prompt; the VM block is added by the system.
    #[serde(default)]
    pub system_prompt: String,
    /// Tools it may use; absent means all.
    #[serde(default)]
    pub tools: Option<Vec<String>>,
    /// Tools it may not use.
    #[serde(default)]
    pub denied_tools: Vec<String>,
    /// Policy by tool name, or by `tool(pattern)` where `*` in the pattern stands for anything; `auto` where nothing fits.
    /// A pattern goes before the bare name, and among patterns the strictest counts. `ask` and `deny` look at every text
    /// of the arguments, whatever its case and spaces, with lists also as one line; `auto` looks only at what the call is
    /// about (its first required argument, such as the command or the path), to the letter. Patterns are about text,
    /// not about what it means: a shell knows many ways to write the same command.
    #[serde(default)]
    pub approvals: BTreeMap<String, ApprovalPolicy>,
    /// Sampling temperature, 0 to 2, where the provider takes one.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// The most tokens of one answer.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// The most turns it takes in one run.
    #[serde(default)]
    pub max_turns: Option<u32>,
    /// Seconds that one call of its model may take as a whole, 1 to 300 (the default). A longer one is broken off and
    /// tried again; the run fails where the same answer took too long four times. `timeout` means the same.
    #[serde(default, alias = "timeout")]
    pub timeout_secs: Option<u64>,
    /// The most that it may use in one run. It is checked before each of its model calls: the call that crosses it is
    /// its last, its turn ends, and the run goes on without it. The conversation's own budget goes on beside it.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Agents it may hand over to; absent means all of the conversation.
    #[serde(default)]
    pub may_talk_to: Option<Vec<String>>,
}

impl AgentDefinition {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the field and its rule.
    pub fn check(&self) -> Result<(), Invalid> {
        agent_id("agent_id", &self.agent_id)?;
        if self.model.as_ref().is_some_and(|model| !model.contains('/')) {
            return Err(Invalid::new("model", "must have the form provider/model"));
        }
        if self.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) {
            return Err(Invalid::new("temperature", "must be 0 to 2"));
        }
        for rule in self.approvals.keys() {
            let (tool, pattern) = rules::split(rule);
            if tool.is_empty() || tool.contains([')', '(']) || pattern.is_some_and(str::is_empty) {
                let shown = crate::text::head_and_tail(rule, 80).0;
                return Err(Invalid::new(
                    "approvals",
                    format!("{shown:?} must be a tool's name or have the form tool(pattern)"),
                ));
            }
        }
        if self.max_tokens == Some(0) {
            return Err(Invalid::new("max_tokens", "must be at least 1"));
        }
        if self.max_turns.is_some_and(|n| !(1..=limits::TURNS_MAX).contains(&n)) {
            return Err(Invalid::new("max_turns", "must be 1 to 100"));
        }
        if self.timeout_secs.is_some_and(|secs| !(1..=limits::MODEL_CALL_SECS).contains(&secs)) {
            return Err(Invalid::new("timeout_secs", "must be 1 to 300"));
        }
        if let Some(budget) = &self.budget {
            budget.check()?;
        }
        if self.system_prompt.len() > 64 * 1024 {
            return Err(Invalid::new("system_prompt", "must have at most 64 KiB"));
        }
        Ok(())
    }

    /// What happens when the agent wants to call `tool` with `arguments`. `subject` names the argument that such a call is
    /// about, for the patterns that allow.
    pub fn policy(&self, tool: &str, subject: Option<&str>, arguments: &Value) -> ApprovalPolicy {
        let by_pattern = self
            .approvals
            .iter()
            .filter_map(|(rule, policy)| {
                let (name, pattern) = rules::split(rule);
                let pattern = pattern.filter(|_| name == tool)?;
                let fits = match policy {
                    ApprovalPolicy::Auto => rules::allows(pattern, subject, arguments),
                    ApprovalPolicy::Ask | ApprovalPolicy::Deny => rules::touches(pattern, arguments),
                };
                fits.then_some(*policy)
            })
            .max();
        by_pattern.or_else(|| self.approvals.get(tool).copied()).unwrap_or(ApprovalPolicy::Auto)
    }

    /// Seconds that one of its model calls may take.
    pub fn call_secs(&self) -> u64 {
        self.timeout_secs.unwrap_or(limits::MODEL_CALL_SECS).min(limits::MODEL_CALL_SECS)
    }

    /// The most turns it takes in one run: those of its budget count as well.
    pub fn turns_of_a_run(&self) -> Option<u32> {
        let of_budget = self.budget.and_then(|budget| budget.turns);
        self.max_turns.into_iter().chain(of_budget).min()
    }

    /// Whether the agent may use `tool` at all.
    pub fn may_use(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|some| some.iter().any(|name| name == tool))
            && !self.denied_tools.iter().any(|name| name == tool)
            && self.approvals.get(tool) != Some(&ApprovalPolicy::Deny)
    }
}

/// Checks an agent's name: `[a-z0-9_-]{1,64}`.
///
/// # Errors
/// Names `field` and the rule.
pub fn agent_id(field: &str, text: &str) -> Result<(), Invalid> {
    let ok = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if ok { Ok(()) } else { Err(Invalid::new(field, "must be 1 to 64 of a-z, 0-9, _ and -")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(approvals: &[(&str, ApprovalPolicy)]) -> AgentDefinition {
        let mut agent: AgentDefinition = serde_json::from_value(json!({"agent_id": "a"})).unwrap();
        agent.approvals = approvals.iter().map(|(rule, policy)| ((*rule).to_owned(), *policy)).collect();
        agent
    }

    #[test]
    fn a_pattern_goes_before_the_name_and_the_strictest_pattern_counts() {
        use ApprovalPolicy::{Ask, Auto, Deny};
        let agent = agent(&[
            ("execute_command", Ask),
            ("execute_command(ls*)", Auto),
            ("execute_command(*git push*)", Ask),
            ("execute_command(*--force*)", Deny),
        ]);
        agent.check().unwrap();
        let of =
            |command: &str| agent.policy("execute_command", Some("command"), &json!({"command": command}));
        assert_eq!((of("ls -la"), of("make"), of("cd a && git push")), (Auto, Ask, Ask));
        assert_eq!((of("git push --force"), of("GIT  push --FORCE")), (Deny, Deny));
        let listed = json!({"command": ["git", "push", "--force"]});
        assert_eq!(agent.policy("execute_command", Some("command"), &listed), Deny);
        let smuggled = json!({"command": "make", "working_dir": "ls"});
        assert_eq!(agent.policy("execute_command", Some("command"), &smuggled), Ask);
        assert_eq!(agent.policy("read_file", Some("path"), &json!({"path": "ls"})), Auto);
        assert!(self::agent(&[("a(", Ask)]).check().is_err());
    }

    #[test]
    fn a_tool_is_there_where_it_is_allowed_and_not_denied() {
        let mut agent =
            agent(&[("git_operations", ApprovalPolicy::Deny), ("read_file(/etc/*)", ApprovalPolicy::Deny)]);
        agent.tools = Some(["read_file", "execute_command", "git_operations"].map(str::to_owned).into());
        agent.denied_tools = vec!["execute_command".to_owned()];
        let usable =
            ["read_file", "execute_command", "git_operations", "write_file"].map(|tool| agent.may_use(tool));
        assert_eq!(usable, [true, false, false, false]);
    }

    #[test]
    fn an_unknown_field_of_a_definition_is_an_error() {
        for wrong in [
            json!({"agent_id": "a", "allowed-tools": []}),
            json!({"agent_id": "a", "budget": {"dollars": 1}}),
            json!({"agent_id": "a", "timeout": 5, "timeout_secs": 5}),
            json!({"agent_id": "a", "timeout": "5s"}),
        ] {
            assert!(serde_json::from_value::<AgentDefinition>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_timeout_and_a_budget_have_bounds() {
        let of = |fields: Value| {
            let mut all = json!({"agent_id": "a"});
            all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            serde_json::from_value::<AgentDefinition>(all).unwrap()
        };
        assert_eq!((of(json!({})).call_secs(), of(json!({"timeout": 20})).call_secs()), (300, 20));
        for (fields, field) in [
            (json!({"timeout_secs": 0}), "timeout_secs"),
            (json!({"timeout_secs": 301}), "timeout_secs"),
            (json!({"budget": {"tokens": 0}}), "budget.tokens"),
        ] {
            assert_eq!(of(fields.clone()).check().unwrap_err().field, field, "{fields}");
        }
        let both = of(json!({"max_turns": 5, "budget": {"turns": 3, "seconds": 60}}));
        both.check().unwrap();
        assert_eq!((both.turns_of_a_run(), of(json!({"max_turns": 5})).turns_of_a_run()), (Some(3), Some(5)));
        assert_eq!(of(json!({})).turns_of_a_run(), None);
    }
}
