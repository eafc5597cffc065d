//! Wakes readers of a log at the moment of an append, and lets writers of one process take turns on a log.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pvm_application::store::StoreError;
use pvm_domain::event::LogId;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

/// Logs remembered before those that nobody uses are forgotten.
const KEPT: usize = 1024;
/// Deltas carry no number, so one that comes between a reader's read and its wait goes unnoticed. While deltas flow,
/// waits are therefore this short ...
const DELTA_WAIT: Duration = Duration::from_millis(100);
/// ... and they count as flowing this long after the last one.
const DELTAS_FLOW: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The highest number known to be in the log.
    head: Option<u64>,
    last_delta: Option<Instant>,
}

#[derive(Debug)]
struct Log {
    state: watch::Sender<State>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The logs that this process reads and writes.
#[derive(Debug, Default)]
pub(super) struct Watches {
    logs: Mutex<HashMap<LogId, Arc<Log>>>,
}

impl Watches {
    fn logs(&self) -> MutexGuard<'_, HashMap<LogId, Arc<Log>>> {
        // The map is whole at every point where a holder could panic.
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, id: &LogId) -> Arc<Log> {
        let mut logs = self.logs();
        if let Some(log) = logs.get(id) {
            return log.clone();
        }
        if logs.len() >= KEPT {
            logs.retain(|_, log| Arc::strong_count(log) > 1 || Arc::strong_count(&log.turn) > 1);
        }
        let log = Arc::new(Log { state: watch::Sender::new(State::default()), turn: Arc::default() });
        logs.insert(id.clone(), log.clone());
        log
    }

    /// Waits for this process's turn to append to `logs`. Without turns, writers of one process would only cancel
    /// each other's transactions. Taken in the logs' order, so that two writers cannot wait for each other.
    pub(super) async fn turns<'a>(&self, logs: impl Iterator<Item = &'a LogId>) -> Vec<OwnedMutexGuard<()>> {
        let mut ids: Vec<&LogId> = logs.collect();
        ids.sort_unstable();
        ids.dedup();
        let mut turns = Vec::with_capacity(ids.len());
        for id in ids {
            turns.push(self.log(id).turn.clone().lock_owned().await);
        }
        turns
    }

    /// `log` now ends at `head`.
    pub(super) fn appended(&self, log: &LogId, head: u64) {
        let known = self.logs().get(log).cloned();
        if let Some(known) = known {
            known.state.send_modify(|state| state.head = state.head.max(Some(head)));
        }
    }

    /// A delta of a message of `log` was stored.
    pub(super) fn delta(&self, log: &LogId) {
        let known = self.logs().get(log).cloned();
        if let Some(known) = known {
            known.state.send_modify(|state| state.last_delta = Some(Instant::now()));
        }
    }

    /// Returns when `log` may have more than `seen`, when a delta came, or after `at_most`.
    pub(super) async fn wait<F>(
        &self,
        id: &LogId,
        seen: u64,
        at_most: Duration,
        read_head: impl FnOnce() -> F,
    ) where
        F: Future<Output = Result<u64, StoreError>>,
    {
        let log = self.log(id);
        let mut changes = log.state.subscribe();
        let mut state = *changes.borrow_and_update();
        if state.head.is_none() {
            // Nobody told us yet how far the log is: an append before we subscribed would otherwise be missed.
            // A head that cannot be read is no reason to return early; the caller's next read tells of the fault.
            if let Ok(head) = read_head().await {
                log.state.send_if_modified(|state| {
                    state.head = state.head.max(Some(head));
                    false
                });
            }
            state = *log.state.borrow();
        }
        if state.head.is_some_and(|head| head > seen) {
            return;
        }
        let flowing = state.last_delta.is_some_and(|at| at.elapsed() < DELTAS_FLOW);
        let limit = if flowing { at_most.min(DELTA_WAIT) } else { at_most };
        // Either outcome means: look again.
        let _ = tokio::time::timeout(limit, changes.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvm_domain::ids::{PrefixedId, ProjectId};

    fn log() -> LogId {
        LogId::Project(ProjectId::from_parts(1, 1))
    }

    async fn head(head: u64) -> Result<u64, StoreError> {
        Ok(head)
    }

    /// Waits that should be cut short by a wake ask for an hour and must end long before.
    const HOUR: Duration = Duration::from_hours(1);

    async fn soon(wait: impl Future<Output = ()>) {
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the wait was not cut short");
    }

    #[tokio::test]
    async fn an_append_before_the_wait_is_noticed() {
        let watches = Watches::default();
        soon(watches.wait(&log(), 3, HOUR, || head(4))).await;
    }

    #[tokio::test]
    async fn an_append_or_a_delta_during_the_wait_wakes() {
        let watches = Arc::new(Watches::default());
        for wake in [|w: &Watches| w.appended(&log(), 5), |w: &Watches| w.delta(&log())] {
            let (waits, subscribed) = (watches.clone(), watches.log(&log()));
            let waiter = tokio::spawn(async move { waits.wait(&log(), 5, HOUR, || head(4)).await });
            while subscribed.state.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
            wake(&watches);
            soon(async { waiter.await.unwrap() }).await;
        }
    }

    #[tokio::test]
    async fn without_news_the_wait_takes_its_time() {
        let watches = Watches::default();
        let started = Instant::now();
        watches.wait(&log(), 4, Duration::from_millis(30), || head(4)).await;
        assert!(started.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn while_deltas_flow_waits_are_short() {
        let watches = Watches::default();
        watches.wait(&log(), 4, Duration::from_millis(1), || head(4)).await;
        watches.delta(&log());
        soon(watches.wait(&log(), 4, HOUR, || head(4))).await;
    }

    #[tokio::test]
    async fn idle_logs_are_forgotten() {
        let watches = Watches::default();
        for n in 0..3000 {
            let id = LogId::Project(ProjectId::from_parts(n, 1));
            watches.wait(&id, 0, Duration::ZERO, || head(1)).await;
        }
        assert!(watches.logs().len() <= KEPT);
    }
}
