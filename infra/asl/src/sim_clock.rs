//! A clock that tests move.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};

use crate::clock::{Clock, Work};

/// Simulated time. It stands still until a test advances it, or, in automatic mode, jumps to the next timer
/// as soon as nobody is at work.
#[derive(Debug, Clone)]
pub struct SimClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    idle: Notify,
}

#[derive(Debug)]
struct State {
    now: Timestamp,
    automatic: bool,
    at_work: usize,
    next_id: u64,
    sleepers: BTreeMap<(Timestamp, u64), oneshot::Sender<Work>>,
}

impl SimClock {
    /// A clock that only [`SimClock::advance`] moves.
    pub fn manual(start: Timestamp) -> Self {
        Self::new(start, false)
    }

    /// A clock that jumps to the next timer whenever nobody is at work.
    pub fn automatic(start: Timestamp) -> Self {
        Self::new(start, true)
    }

    fn new(now: Timestamp, automatic: bool) -> Self {
        let state = State { now, automatic, at_work: 0, next_id: 0, sleepers: BTreeMap::new() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), idle: Notify::new() }) }
    }

    /// Moves time forward and wakes every timer on the way.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut state = self.shared.lock();
            let target = state.now.saturating_add(by).unwrap_or(Timestamp::MAX);
            state.take_due(target)
        };
        self.shared.wake(due);
    }

    /// Moves time to the next timer and wakes it. False if there is none.
    pub fn advance_to_next(&self) -> bool {
        let due = {
            let mut state = self.shared.lock();
            let Some(at) = state.sleepers.keys().next().map(|key| key.0) else { return false };
            state.take_due(at)
        };
        self.shared.wake(due);
        true
    }

    /// Waits until nobody is at work: everything that could happen without time passing has happened.
    pub async fn settle(&self) {
        loop {
            let idle = self.shared.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.shared.lock().at_work == 0 {
                return;
            }
            idle.await;
        }
    }

    /// How many timers are set.
    pub fn timers(&self) -> usize {
        self.shared.lock().sleepers.len()
    }

    /// Takes one count of being at work away while the loan lives: for a function that holds a mark and only waits for
    /// timers. Whoever holds no mark must not lend one.
    pub fn lend(&self) -> Loan {
        Loan { _lent: Lent::new(&self.shared) }
    }

    /// Lets simulated time pass inside a function under test, as if its work took that long. The caller is
    /// at work before and after, but not during it.
    pub async fn elapse(&self, duration: Duration) {
        // The timer is set first: giving the mark back may move the clock at once.
        let at = self.now().saturating_add(duration).unwrap_or(Timestamp::MAX);
        let sleep = self.sleep_until(at);
        // The caller's own mark is held elsewhere; lend it to the clock for the time of the sleep.
        let lent = Lent::new(&self.shared);
        let woken = sleep.await;
        drop(lent);
        drop(woken);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.shared.lock().now
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, Work> {
        let (sender, receiver) = oneshot::channel();
        let key = {
            let mut state = self.shared.lock();
            if at <= state.now {
                drop(state);
                let work = self.work();
                return Box::pin(async move { work });
            }
            state.next_id += 1;
            let key = (at, state.next_id);
            state.sleepers.insert(key, sender);
            key
        };
        // Somebody may set a timer although nobody is marked as being at work.
        self.shared.jump_if_idle();
        Box::pin(Sleep { shared: Arc::clone(&self.shared), key, receiver })
    }

    fn work(&self) -> Work {
        self.shared.lock().at_work += 1;
        Work::of(Permit { shared: Arc::clone(&self.shared) })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a test must not hide behind a poisoned clock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands each sleeper its mark, outside the lock: a sleeper that has gone gives it straight back.
    fn wake(self: &Arc<Self>, due: Vec<oneshot::Sender<Work>>) {
        for sender in due {
            drop(sender.send(Work::of(Permit { shared: Arc::clone(self) })));
        }
    }

    fn leave_work(self: &Arc<Self>) {
        let idle = {
            let mut state = self.lock();
            state.at_work -= 1;
            state.at_work == 0
        };
        if idle {
            self.jump_if_idle();
        }
    }

    fn jump_if_idle(self: &Arc<Self>) {
        let due = {
            let mut state = self.lock();
            if state.at_work > 0 {
                return;
            }
            match state.sleepers.keys().next().map(|key| key.0) {
                Some(at) if state.automatic => state.take_due(at),
                _ => {
                    drop(state);
                    self.idle.notify_waiters();
                    return;
                }
            }
        };
        self.wake(due);
    }
}

impl State {
    /// Moves to `target` and takes the timers due by then. Each is counted as being at work already, so
    /// that time does not jump on before its owner was polled.
    fn take_due(&mut self, target: Timestamp) -> Vec<oneshot::Sender<Work>> {
        self.now = self.now.max(target);
        let later = self.sleepers.split_off(&(self.now, u64::MAX));
        let due: Vec<_> = std::mem::replace(&mut self.sleepers, later).into_values().collect();
        self.at_work += due.len();
        due
    }
}

/// One count of being at work; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.leave_work();
    }
}

/// A mark that was lent to the clock; given back on drop.
#[derive(Debug)]
#[must_use = "the loan lasts only while it is held"]
pub struct Loan {
    _lent: Lent,
}

/// The reverse of a [`Permit`]: one count less while it lives.
#[derive(Debug)]
struct Lent {
    shared: Arc<Shared>,
    counted: bool,
}

impl Lent {
    fn new(shared: &Arc<Shared>) -> Self {
        // A caller that holds no mark has none to lend.
        let counted = shared.lock().at_work > 0;
        if counted {
            shared.leave_work();
        }
        Self { shared: Arc::clone(shared), counted }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.counted {
            self.shared.lock().at_work += 1;
        }
    }
}

struct Sleep {
    shared: Arc<Shared>,
    key: (Timestamp, u64),
    receiver: oneshot::Receiver<Work>,
}

impl Future for Sleep {
    type Output = Work;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Work> {
        // The sender stays in the table until it fires, so it cannot be gone before.
        Pin::new(&mut self.receiver).poll(context).map(Result::unwrap_or_default)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // A timer nobody waits for must not draw the clock forward.
        self.shared.lock().sleepers.remove(&self.key);
    }
}
