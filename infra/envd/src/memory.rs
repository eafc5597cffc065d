//! Giving memory back.
//!
//! The allocator keeps what it was given once, in case it is wanted again. In a sandbox that did something large
//! a while ago and is idle now, it is wanted elsewhere.
#![expect(unsafe_code, reason = "the C library's own call to give memory back")]

use tokio::time::{Duration, interval};

/// How often to look.
const EVERY: Duration = Duration::from_secs(30);
/// Bytes of growth since the last time from which giving back is worth the work.
const WORTH: u64 = 8 * 1024 * 1024;
/// Bytes of one unit in `/proc/self/statm`.
const PAGE: u64 = 4096;

/// Looks now and then, for ever.
pub async fn give_back_now_and_then() {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut least = resident();
    loop {
        ticks.tick().await;
        let now = resident();
        if now > least + WORTH {
            // SAFETY: the allocator does its own locking; the call changes nothing that is allocated.
            unsafe { libc::malloc_trim(0) };
            least = resident();
        } else {
            least = least.min(now);
        }
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_process_has_memory() {
        assert!(super::resident() > super::PAGE);
    }
}
