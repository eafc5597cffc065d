//! Who speaks next, by the conversation's mode, and when enough was said.

use serde_json::json;

use super::core::{Effect, Next, OverBudget, Turn, Work};
use super::derived;
use super::mention::mentions;
use super::records::{Mode, OutcomeKind};
use super::usage::{Budget, Usage};
use crate::event::EventType;

impl Work<'_> {
    /// Takes the next speaker from the queue. Agents that had all their turns, or have used up their budget, are passed
    /// over. A message that joined after everybody had spoken is answered by whom it mentions, else by the last speaker.
    pub(super) fn next_speaker(&mut self) -> Option<String> {
        while let Some(agent_id) = self.core.queue.pop_front() {
            if self.has_turns_left(&agent_id) && !self.is_over_budget(&agent_id) {
                return Some(agent_id);
            }
        }
        let steer = self.core.steers.first()?;
        let mentioned = steer.mentions.iter().find(|agent| self.core.seat(agent).is_some());
        let agent = mentioned.or(self.core.last_speaker.as_ref());
        let agent =
            agent.cloned().or_else(|| self.core.rules.seats.first().map(|seat| seat.agent_id.clone()))?;
        (!self.is_over_budget(&agent)).then_some(agent)
    }

    /// Whether the agent has used up its own budget. The first time that this keeps it from going on, everybody is told.
    pub(super) fn is_over_budget(&mut self, agent_id: &str) -> bool {
        let Some(budget) = self.core.seat(agent_id).map(|seat| seat.budget) else { return false };
        let active_ms = self.core.active_ms_by_agent.get(agent_id).copied().unwrap_or(0);
        let used = self.core.used_by_agent.get(agent_id).copied().unwrap_or_default();
        let used = Usage { active_ms, ..used };
        let Some(reason) = budget.reached_by(&used) else { return false };
        if self.core.over_budget.iter().any(|over| over.agent_id == agent_id) {
            return true;
        }
        let text = format!(
            "{agent_id} has used up its budget for this run ({}) and takes no further part in it.",
            used_of(&budget, &used)
        );
        // Notes of agents must not share an id where several are due in one step.
        let place = u32::try_from(self.core.over_budget.len()).unwrap_or(u32::MAX);
        let message_id = derived::note_message(self.run, place);
        self.effects.push(Effect::PlaceNote { message_id, text: text.clone() });
        self.core.over_budget.push(OverBudget {
            agent_id: agent_id.to_owned(),
            reason: format!("agent_{reason}"),
            detail: text,
        });
        true
    }

    /// Ends the turn under way where its agent's budget is used up. A message that it had begun is closed, so that the
    /// next speaker begins its own.
    pub(super) fn end_turn_over_budget(&mut self) {
        let Some(agent_id) = self.core.turn.as_ref().map(|turn| turn.agent_id.clone()) else { return };
        if self.is_over_budget(&agent_id) {
            self.core.compact.remove(&agent_id);
            self.close_message();
            self.end_turn("");
        }
    }

    /// Nobody speaks any more. The run is complete unless an agent's budget kept it from going on.
    pub(super) fn nobody_is_left(&mut self) -> Next {
        match self.core.over_budget.first().cloned() {
            None => self.end(OutcomeKind::Completed, None, None),
            Some(over) => self.end(OutcomeKind::Stopped, Some(&over.reason), Some(over.detail)),
        }
    }

    fn has_turns_left(&self, agent_id: &str) -> bool {
        let had = self.core.turns_by_agent.get(agent_id).copied().unwrap_or(0);
        self.core.seat(agent_id).is_some_and(|seat| seat.max_turns.is_none_or(|most| had < most))
    }

    /// Why no further turn may begin, if so.
    pub(super) fn turn_limit(&self) -> Option<(&'static str, String)> {
        let had = self.core.usage.turns;
        if had >= self.core.rules.max_turns {
            return Some(("max_turns", format!("The run had its {had} turns.")));
        }
        let all = self.core.rules.spent.turns + had;
        if self.core.rules.budget.turns.is_some_and(|most| all >= most) {
            return Some(("budget_turns", format!("The conversation had the {all} turns of its budget.")));
        }
        None
    }

    /// Why no further model call may be made, if so.
    pub(super) fn budget_limit(&self) -> Option<(&'static str, String)> {
        let mut used = self.core.rules.spent;
        used.add(&self.core.usage);
        used.add(&self.core.lane_usage);
        let reason = self.core.rules.budget.reached_by(&used)?;
        let detail = format!(
            "The conversation's budget is used up: {} tokens, {} millionths of a dollar, {} seconds.",
            used.tokens(),
            used.cost_microusd,
            used.active_ms / 1000
        );
        Some((reason, detail))
    }

    pub(super) fn begin_turn(&mut self, agent_id: String) {
        self.core.usage.turns += 1;
        *self.core.turns_by_agent.entry(agent_id.clone()).or_default() += 1;
        let number = self.core.usage.turns;
        self.tell(EventType::TurnStarted, Some(&agent_id), json!({"turn": number}));
        self.core.last_speaker = Some(agent_id.clone());
        self.core.turn = Some(Turn { number, agent_id, steps: 0, compacted: false, told_of_fences: false });
    }

    /// The speaker is done; `prose` is what it said last.
    pub(super) fn end_turn(&mut self, prose: &str) {
        let Some(turn) = self.core.turn.take() else { return };
        let known = self.core.rules.seats.iter().map(|seat| seat.agent_id.as_str());
        let allowed = self.core.seat(&turn.agent_id).and_then(|seat| seat.may_talk_to.clone());
        let called: Vec<String> = mentions(prose, known)
            .into_iter()
            .filter(|agent| *agent != turn.agent_id)
            .filter(|agent| allowed.as_ref().is_none_or(|some| some.contains(agent)))
            .collect();
        for agent in called {
            if !self.core.queue.contains(&agent) {
                self.core.queue.push_back(agent);
            }
        }
        let leads = self.core.rules.seats.first().map(|seat| seat.agent_id.clone());
        if self.core.rules.mode == Mode::Moderator && self.core.queue.is_empty() {
            self.core.queue.extend(leads.filter(|leader| *leader != turn.agent_id));
        }
    }
}

/// What was used of the limits that a budget has, in words.
fn used_of(budget: &Budget, used: &Usage) -> String {
    let tokens = budget.tokens.map(|most| format!("{} of {most} tokens", used.tokens()));
    let cost =
        budget.cost_microusd.map(|most| format!("{} of {most} millionths of a dollar", used.cost_microusd));
    let seconds = budget.seconds.map(|most| format!("{} of {most} seconds", used.active_ms / 1000));
    [tokens, cost, seconds].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
