//! Model calls that fail: tried again, answered otherwise, or the end of the run.

use super::{BROKEN_TRIES, Call, CallFailure, Effect, MODEL_TRIES, Next, Phase, Purpose, Work};
use crate::conversation::answer;
use crate::conversation::records::OutcomeKind;

impl Work<'_> {
    /// The model call failed.
    pub(super) fn call_failed(&mut self, call: Call, failure: CallFailure) -> Next {
        let agent_id = call.agent_id.clone();
        match failure {
            CallFailure::Busy { retry_after_secs } => {
                self.core.failures += 1;
                if self.core.failures >= MODEL_TRIES {
                    let detail =
                        format!("The model of {agent_id} stayed overloaded over {MODEL_TRIES} tries.");
                    return self.end(OutcomeKind::Failed, Some("model_overloaded"), Some(detail));
                }
                let growing = 2u64.saturating_pow(self.core.failures).min(60);
                Next::Wait { secs: retry_after_secs.unwrap_or(growing).clamp(1, 900) }
            }
            CallFailure::Broken { detail } => {
                self.core.failures += 1;
                self.core.broken += 1;
                if self.core.broken >= BROKEN_TRIES && call.purpose == Purpose::Summarise {
                    self.summarised(&agent_id, None);
                    return Next::Think;
                }
                if self.core.broken >= BROKEN_TRIES {
                    let detail =
                        format!("The answers of {agent_id} broke off {BROKEN_TRIES} times: {detail}");
                    return self.end(OutcomeKind::Failed, Some("model_broken"), Some(detail));
                }
                Next::Wait { secs: 1 }
            }
            CallFailure::ContextOverflow if call.purpose == Purpose::Summarise => {
                self.summarised(&agent_id, None);
                Next::Think
            }
            CallFailure::ContextOverflow => {
                if self.core.turn.as_ref().is_some_and(|turn| turn.compacted) {
                    let detail =
                        format!("What {agent_id} must read does not fit its model, even summarised.");
                    return self.end(OutcomeKind::Failed, Some("context_overflow"), Some(detail));
                }
                self.core.compact.insert(agent_id);
                self.core.phase = Phase::Deciding;
                Next::Think
            }
            CallFailure::Refused { .. } if call.purpose == Purpose::Summarise => {
                self.summarised(&agent_id, None);
                Next::Think
            }
            CallFailure::Refused { detail } => {
                let text = format!("(The model's provider declined this request: {detail})");
                self.answered(call, answer::Answer::refusal(text))
            }
            CallFailure::NotConfigured { detail } => {
                self.end(OutcomeKind::Failed, Some("model_not_configured"), Some(detail))
            }
        }
    }

    /// The agent's older context has its summary.
    pub(in crate::conversation) fn summarised(&mut self, agent_id: &str, summary: Option<String>) {
        self.core.compact.remove(agent_id);
        self.core.phase = Phase::Deciding;
        if let Some(turn) = &mut self.core.turn {
            turn.compacted = true;
        }
        self.effects.push(Effect::StoreSummary { agent_id: agent_id.to_owned(), summary });
    }
}
