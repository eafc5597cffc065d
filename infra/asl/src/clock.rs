//! Time, injected: every wait, delay and timeout of the engine goes through a [`Clock`].

use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;

use crate::sim_clock::Permit;

/// A mark that somebody is at work. A simulated clock does not move on its own while one is held.
/// With a real clock it means nothing.
#[derive(Debug, Default)]
#[must_use = "the mark counts only while it is held"]
pub struct Work(#[expect(dead_code, reason = "held for its Drop")] Option<Permit>);

impl Work {
    /// A mark that marks nothing.
    pub fn none() -> Self {
        Self(None)
    }

    pub(crate) fn of(permit: Permit) -> Self {
        Self(Some(permit))
    }
}

/// What the engine knows of time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Waits until `at`; at once if that has passed. Whoever was woken is at work again from that moment
    /// and holds the mark that this returns.
    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, Work>;

    /// Says that somebody is at work until the mark is dropped.
    fn work(&self) -> Work {
        Work::none()
    }
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, Work> {
        // In slices, because the timer below counts monotonic time: it stands still while a laptop sleeps
        // and does not see the wall clock being set, and waits here last up to weeks.
        const SLICE: Duration = Duration::from_secs(20);
        Box::pin(async move {
            loop {
                let left = Timestamp::now().duration_until(at);
                match Duration::try_from(left) {
                    Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(SLICE)).await,
                    _ => return Work::none(),
                }
            }
        })
    }
}
