//! A run in the making: its agents with their versions, its rules, its message.

use pvm_domain::Timestamp;
use pvm_domain::agent::AgentDefinition;
use pvm_domain::conversation::core::{Rules, RunCore, Seat};
use pvm_domain::conversation::{Budget, Conversation, InboxEntry, PinnedAgent, Run, RunStatus};
use pvm_domain::ids::{MessageId, OwnerId, ProjectId, RunId};

use crate::agents::{CheckTools, pin, pin_workspace};
use crate::error::{AppError, AppResult};
use crate::ports::{Ambient, GetObject};
use crate::ports_model::{KnowModels, ModelFacts};
use crate::store::WriteStore;

/// As much of the user's message as recordings are found by, in bytes.
const INITIAL_BYTES: usize = 4096;

/// Whose agents are meant, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    /// Their owner.
    pub(super) owner: &'a OwnerId,
    /// The project, whose workspace may define further ones.
    pub(super) project_id: &'a ProjectId,
    /// Checks the tools of those that the workspace defines; all others were checked when they were made.
    pub(super) check_tools: CheckTools,
    /// When a version is made, if one is.
    pub(super) now: Timestamp,
}

/// The newest versions of the agents. Each must exist, its model must be usable as things are configured, and where a
/// budget in money is to be kept its price must be known.
///
/// # Errors
/// `invalid` naming `agent_ids` or the budget.
pub(super) async fn pins(
    store: &impl WriteStore,
    objects: &impl GetObject,
    models: &impl KnowModels,
    whose: Whose<'_>,
    agent_ids: &[String],
    budget: &Budget,
) -> AppResult<Vec<(PinnedAgent, AgentDefinition)>> {
    let mut found = Vec::new();
    for agent_id in agent_ids {
        let shown = pvm_domain::text::head_and_tail(agent_id, 80).0;
        let mut pinned = pin(store, whose.owner, agent_id).await?;
        if pinned.is_none() {
            let Whose { owner, project_id, check_tools, now } = whose;
            pinned = pin_workspace(store, objects, owner, project_id, agent_id, check_tools, now).await?;
        }
        let Some((pinned, definition)) = pinned else {
            return Err(AppError::invalid(
                "agent_ids",
                format!("names {shown:?}, and there is no such agent"),
            ));
        };
        let model = definition.model.as_deref().unwrap_or_else(|| models.default_model());
        let known = match models.facts(model) {
            Ok(facts) => models.confirm(model).await.map(|()| facts),
            Err(error) => Err(error),
        };
        match known {
            Err(error) => {
                let reason = format!("names {shown:?}, whose model {model} cannot be used: {error}");
                return Err(AppError::invalid("agent_ids", reason));
            }
            Ok(facts) => {
                if let Some(why) = unpriced(budget, model, facts) {
                    return Err(AppError::invalid("budget.cost_microusd", why));
                }
                if let Some(why) = unpriced(&definition.budget.unwrap_or_default(), model, facts) {
                    let reason = format!("names {shown:?}, whose budget in money {why}");
                    return Err(AppError::invalid("agent_ids", reason));
                }
            }
        }
        found.push((pinned, definition));
    }
    Ok(found)
}

/// Why a budget in money cannot be kept, where the model has no price.
pub(crate) fn unpriced(budget: &Budget, model: &str, facts: ModelFacts) -> Option<String> {
    (!facts.priced && budget.cost_microusd.is_some()).then(|| {
        format!("cannot be kept: the price of {model} is not known; set it in PVM_MODELS or PVM_MODELS_FILE")
    })
}

/// A message's text, checked.
///
/// # Errors
/// `invalid` naming `field`.
pub(super) fn checked_message(field: &str, text: &str) -> AppResult<()> {
    if text.trim().is_empty() {
        return Err(AppError::invalid(field, "must not be empty"));
    }
    if !pvm_domain::text::fits_message(text) {
        return Err(AppError::invalid(
            field,
            "must have at most 256 KiB, and 360 KiB as JSON; upload a file and point to it instead",
        ));
    }
    if text.contains('\0') {
        return Err(AppError::invalid(field, "must not contain a NUL character"));
    }
    Ok(())
}

/// A run that works off `text`, and the message as it waits for it.
pub(super) fn new_run(
    conversation: &Conversation,
    agents: Vec<(PinnedAgent, AgentDefinition)>,
    ambient: &impl Ambient,
    text: String,
    now: Timestamp,
) -> (Run, InboxEntry) {
    let (run_id, message_id): (RunId, MessageId) = (ambient.new_id(), ambient.new_id());
    let seats = agents.iter().map(|(_, definition)| Seat {
        agent_id: definition.agent_id.clone(),
        max_turns: definition.turns_of_a_run(),
        may_talk_to: definition.may_talk_to.clone(),
        budget: definition.budget.unwrap_or_default(),
    });
    let rules = Rules {
        mode: conversation.mode,
        seats: seats.collect(),
        max_turns: conversation.max_turns,
        budget: conversation.budget,
        spent: conversation.usage,
    };
    let initial_message = text[..text.floor_char_boundary(INITIAL_BYTES)].to_owned();
    let run = Run {
        conversation_id: conversation.conversation_id.clone(),
        run_id: run_id.clone(),
        project_id: conversation.project_id.clone(),
        message_id: message_id.clone(),
        initial_message,
        status: RunStatus::Queued,
        outcome: None,
        agents: agents.into_iter().map(|(pinned, _)| pinned).collect(),
        core: RunCore::new(rules),
        segment: 1,
        lane: None,
        join_tokens: Vec::new(),
        vm_epoch: None,
        vm_since: None,
        unkilled: Vec::new(),
        due_at: now,
        created_at: now,
        finished_at: None,
        version: 0,
    };
    let conversation_id = conversation.conversation_id.clone();
    let entry = InboxEntry { conversation_id, message_id, run_id, text, created_at: now, version: 0 };
    (run, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_in_money_needs_a_price() {
        let of = |priced| ModelFacts { context_tokens: 1, answer_tokens: 1, priced };
        let money = Budget { cost_microusd: Some(1), ..Budget::default() };
        assert!(unpriced(&money, "a/b", of(false)).is_some_and(|why| why.contains("the price of a/b")));
        assert!(unpriced(&money, "a/b", of(true)).is_none());
        assert!(unpriced(&Budget { tokens: Some(1), ..Budget::default() }, "a/b", of(false)).is_none());
    }
}
