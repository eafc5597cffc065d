//! Ids that follow from a run: the same step of the same run always gets the same ids, whoever computes them, however
//! often. That is what makes a repeated step find what it has already done.

use crate::ids::{ApprovalId, MessageId, PrefixedId, RunId, ToolCallId};

/// What of a step an id is for. Kinds and places never meet in one number: a step takes the bits below 40, its parts
/// those below 60, lanes those above.
#[derive(Debug, Clone, Copy)]
enum Part {
    Answer,
    Results,
    Call(u32),
    Approval(u32),
    Lane(u32),
    Note,
}

/// The run's own 80 random bits make the id unique among runs; step and part make it unique within the run.
fn derive<I: PrefixedId>(run: &RunId, step: u32, part: Part) -> I {
    let (millis, random) = run.to_parts();
    let place = match part {
        Part::Answer => 1 << 40,
        Part::Results => 2 << 40,
        Part::Note => 3 << 40,
        Part::Call(index) => (0x1_0000 + u128::from(index)) << 40,
        Part::Approval(index) => (0x2_0000 + u128::from(index)) << 40,
        Part::Lane(index) => (1 + u128::from(index)) << 60,
    };
    let mixed = random ^ place ^ u128::from(step);
    I::from_parts(millis + u64::from(step), mixed)
}

/// The message that a step's model call writes.
pub fn answer_message(run: &RunId, step: u32) -> MessageId {
    derive(run, step, Part::Answer)
}

/// The message that tells what a step's `/vm` lines did.
pub fn results_message(run: &RunId, step: u32) -> MessageId {
    derive(run, step, Part::Results)
}

/// The message that tells that an agent's budget is used up; `place` counts such messages of the run.
pub(super) fn note_message(run: &RunId, place: u32) -> MessageId {
    derive(run, place, Part::Note)
}

/// The call at `index` of a step.
pub fn tool_call(run: &RunId, step: u32, index: u32) -> ToolCallId {
    derive(run, step, Part::Call(index))
}

/// The approval of the call at `index` of a step.
pub fn approval(run: &RunId, step: u32, index: u32) -> ApprovalId {
    derive(run, step, Part::Approval(index))
}

/// The run of the lane at `index` of a parallel run.
pub fn lane_run(run: &RunId, index: u32) -> RunId {
    derive(run, 0, Part::Lane(index))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_of_a_run_are_all_different_and_always_the_same() {
        let (one, two) = (RunId::from_parts(7, 0xabc), RunId::from_parts(7, 0xabd));
        let mut seen = BTreeSet::new();
        let lanes: Vec<RunId> = (0..10).map(|index| lane_run(&one, index)).collect();
        for run in [&one, &two].into_iter().chain(&lanes) {
            assert!(seen.insert(run.to_string()));
            for step in 0..300 {
                for index in 0..10 {
                    assert!(seen.insert(tool_call(run, step, index).to_string()));
                }
                for message in [answer_message, results_message, note_message] {
                    assert!(seen.insert(message(run, step).to_string()));
                }
            }
        }
        assert_eq!(tool_call(&one, 3, 1), tool_call(&one, 3, 1));
    }
}
