//! When a tool call that takes long is looked at again.

use pvm_domain::limits;

/// The first pause between polls, in seconds; each is 1.6 times the one before, up to a minute.
const POLL_FIRST_SECS: f64 = 2.0;
/// A minute, in seconds.
const POLL_MINUTE_SECS: f64 = 60.0;
/// After so many polls, about half an hour, each pause is 3 % longer than the one before: the end of a command is noticed
/// within that part of its time, and one of a day is seen to its end in [`limits::TOOL_POLLS_MAX`] polls.
const POLLS_EACH_MINUTE: u32 = 20;
/// The longest pause between polls, in seconds: half the time after which a provider ends an unused VM.
const POLL_MOST_SECS: f64 = (limits::VM_TIMEOUT_SECS / 2) as f64;

/// Seconds to the next poll after `polls` of them: soon at first, then a minute, then in proportion to how long it takes.
pub(super) fn pause_after(polls: u32) -> u64 {
    let first = POLL_FIRST_SECS * 1.6_f64.powi(polls.cast_signed());
    let later = POLL_MINUTE_SECS * 1.03_f64.powi(polls.saturating_sub(POLLS_EACH_MINUTE).cast_signed());
    first.min(later).min(POLL_MOST_SECS).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a poll itself waits.
    const INLINE: u64 = limits::STEP_INLINE_WAIT_SECS;

    #[test]
    fn the_polls_of_a_call_last_longer_than_any_command_may_run() {
        let polls: u64 = (0..limits::TOOL_POLLS_MAX).map(|polls| pause_after(polls) + INLINE).sum();
        assert!(polls > limits::COMMAND_TIMEOUT_MAX_SECS, "{polls}");
        // Ten calls of one answer, each with the nine events of a poll, beside the other steps of a segment.
        let calls = u32::try_from(limits::TOOL_CALLS_PER_STEP).unwrap();
        assert!(calls * limits::TOOL_POLLS_MAX * 9 + limits::STEPS_PER_SEGMENT * 25 < 25_000);
        let half_an_hour: u64 = (0..POLLS_EACH_MINUTE).map(|polls| pause_after(polls) + INLINE).sum();
        assert!((1_500..2_100).contains(&half_an_hour), "{half_an_hour}");
    }
}
