//! Time and ids of the real world.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pvm_application::ports::{Clock, NewId};
use pvm_domain::Timestamp;
use pvm_domain::ids::PrefixedId;

const RANDOM_BITS: u32 = 80;

/// The system's clock, and ids from it and the thread's random generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// The parts of the id made last: the next one of the same millisecond must sort after it.
static LAST: Mutex<(u64, u128)> = Mutex::new((0, 0));

impl NewId for System {
    fn new_id<I: PrefixedId>(&self) -> I {
        let millis = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let (fresh, step) =
            (rand::random::<u128>() >> (128 - RANDOM_BITS), u128::from(rand::random::<u32>()) + 1);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = next(*last, millis, fresh, step);
        I::from_parts(last.0, last.1)
    }
}

/// The parts of the id after `last`: fresh ones in a new millisecond, else (or where the clock stepped back) a step up.
fn next(last: (u64, u128), millis: u64, fresh: u128, step: u128) -> (u64, u128) {
    if millis > last.0 {
        return (millis, fresh);
    }
    let random = last.1 + step;
    if random >> RANDOM_BITS == 0 { (last.0, random) } else { (last.0 + 1, fresh) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvm_domain::ids::ProjectId;

    #[test]
    fn ids_made_later_sort_later() {
        let ids: Vec<ProjectId> = (0..5_000).map(|_| System.new_id()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_clock_that_steps_back_or_stands_still_does_not_break_the_order() {
        let top = (1u128 << RANDOM_BITS) - 1;
        assert_eq!(next((10, 5), 9, 1, 3), (10, 8));
        assert_eq!(next((10, top), 10, 7, 1), (11, 7));
        assert_eq!(next((10, top), 12, 7, 1), (12, 7));
    }
}
