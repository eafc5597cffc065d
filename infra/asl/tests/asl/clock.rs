//! The simulated clock itself, since every other test trusts it.

use std::time::Duration;

use jiff::SignedDuration;
use pvm_asl::{Clock, SimClock, SystemClock};

use crate::bed::{beginning, seconds_since_start};

#[tokio::test]
async fn a_manual_clock_wakes_only_what_is_due() {
    let clock = SimClock::manual(beginning());
    let mut early = clock.sleep_until(beginning() + SignedDuration::from_secs(5));
    let mut late = clock.sleep_until(beginning() + SignedDuration::from_secs(50));
    assert!(futures::poll!(&mut early).is_pending());
    clock.advance(Duration::from_secs(10));
    assert!(futures::poll!(&mut early).is_ready());
    assert!(futures::poll!(&mut late).is_pending());
    assert!(clock.advance_to_next());
    assert_eq!(seconds_since_start(clock.now()), 50.0);
    assert!(futures::poll!(&mut late).is_ready());
    assert!(!clock.advance_to_next());
}

#[tokio::test]
async fn an_automatic_clock_stands_still_while_somebody_is_at_work() {
    let clock = SimClock::automatic(beginning());
    let work = clock.work();
    let mut sleep = clock.sleep_until(beginning() + SignedDuration::from_secs(5));
    assert!(futures::poll!(&mut sleep).is_pending());
    drop(work);
    let woken = sleep.await;
    // Whoever was woken is at work, so the next timer has to wait.
    let mut next = clock.sleep_until(beginning() + SignedDuration::from_secs(9));
    assert!(futures::poll!(&mut next).is_pending());
    assert_eq!(seconds_since_start(clock.now()), 5.0);
    drop(woken);
    drop(next.await);
    assert_eq!(seconds_since_start(clock.now()), 9.0);
}

#[tokio::test]
async fn a_timer_that_was_given_up_does_not_draw_the_clock() {
    let clock = SimClock::automatic(beginning());
    let work = clock.work();
    drop(clock.sleep_until(beginning() + SignedDuration::from_secs(1)));
    let kept = clock.sleep_until(beginning() + SignedDuration::from_secs(3));
    assert_eq!(clock.timers(), 1);
    drop(work);
    drop(kept.await);
    assert_eq!(seconds_since_start(clock.now()), 3.0);
}

#[tokio::test]
async fn time_passes_inside_a_function_that_says_so() {
    let clock = SimClock::automatic(beginning());
    let _work = clock.work();
    clock.elapse(Duration::from_secs(7)).await;
    assert_eq!(seconds_since_start(clock.now()), 7.0);
    let mut sleep = clock.sleep_until(beginning() + SignedDuration::from_secs(8));
    assert!(futures::poll!(&mut sleep).is_pending(), "the caller is at work again");
}

#[tokio::test]
async fn the_system_clock_does_not_wait_for_the_past() {
    drop(SystemClock.sleep_until(SystemClock.now() - SignedDuration::from_secs(1)).await);
}
