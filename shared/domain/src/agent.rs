//! Agent definitions: who can take part in a conversation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// What happens when an agent wants to use a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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
    /// Policy by tool name; `auto` where a tool is not named.
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
        if self.max_tokens == Some(0) {
            return Err(Invalid::new("max_tokens", "must be at least 1"));
        }
        if self.max_turns.is_some_and(|n| !(1..=crate::limits::TURNS_MAX).contains(&n)) {
            return Err(Invalid::new("max_turns", "must be 1 to 100"));
        }
        if self.system_prompt.len() > 64 * 1024 {
            return Err(Invalid::new("system_prompt", "must have at most 64 KiB"));
        }
        Ok(())
    }

    /// Whether the agent may use `tool`.
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
