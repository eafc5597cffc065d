//! How long a retrier waits.

use std::time::Duration;

use crate::limits;

/// Whether the delay is spread at random, so that many executions that failed together do not come back
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// The delay is exactly the backed-off interval.
    None,
    /// The delay is anything from zero to the backed-off interval.
    Full,
}

/// The timing of one entry of a state's `Retry`.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    /// First delay, in seconds.
    pub interval_seconds: u64,
    /// Retries after the first attempt; 0 means never.
    pub max_attempts: u64,
    /// What each further delay is multiplied with; at least 1.
    pub backoff_rate: f64,
    /// Upper bound of a delay, in seconds.
    pub max_delay_seconds: Option<u64>,
    /// How the delay is spread.
    pub jitter: Jitter,
}

impl Backoff {
    /// The delay before the retry that follows `retries_done` earlier ones.
    /// `chance` is a number in [0, 1) that full jitter scales the delay with; it is not used otherwise.
    pub fn delay(&self, retries_done: u64, chance: f64) -> Duration {
        let exponent = i32::try_from(retries_done).unwrap_or(i32::MAX);
        let grown = self.interval_seconds as f64 * self.backoff_rate.powi(exponent);
        let bound = self.max_delay_seconds.unwrap_or(limits::MAX_RETRY_DELAY_SECONDS) as f64;
        let seconds = grown.min(bound);
        let spread = match self.jitter {
            Jitter::None => seconds,
            Jitter::Full => seconds * chance.clamp(0.0, 1.0),
        };
        // Whole milliseconds, because that is what is stored and what the clock counts.
        Duration::from_millis((spread * 1000.0).round() as u64)
    }
}
