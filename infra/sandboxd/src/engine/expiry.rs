//! The end of sandboxes' time, and the end of the server.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Engine, EngineError, Sandbox};
use crate::store::Phase;

/// How often the server looks for sandboxes whose time is over. Looking is a comparison for each of them.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Pause after the first failure to end a sandbox's time in milliseconds; each further one doubles it.
const RETRY_AFTER_MS: u64 = 1000;
/// The longest pause.
const RETRY_AT_MOST_MS: u64 = 60_000;

/// When to try again what failed.
#[derive(Debug, Default)]
pub(super) struct Retry(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    again_at_ms: u64,
}

impl Retry {
    fn lock(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.lock().again_at_ms <= now_ms
    }

    /// Whether nothing has failed since it last went well.
    fn is_first(&self) -> bool {
        self.lock().count == 0
    }

    fn failed(&self, now_ms: u64) {
        let mut failures = self.lock();
        let pause = RETRY_AFTER_MS.saturating_mul(2_u64.saturating_pow(failures.count)).min(RETRY_AT_MOST_MS);
        failures.count += 1;
        failures.again_at_ms = now_ms.saturating_add(pause);
    }

    fn went_well(&self) {
        *self.lock() = Failures::default();
    }
}

/// What becomes of the sandboxes when the server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// They go on; the next server on this state folder adopts them.
    Detach,
    /// Their processes end, their files are kept.
    PauseAll,
    /// They are removed.
    KillAll,
}

impl Engine {
    /// Watches the clock until the server stops.
    pub(crate) async fn expire_continually(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stopping.cancelled() => return,
            }
            let now = self.now_ms();
            for sandbox in self.sandboxes() {
                let over = sandbox.with(|record| record.phase == Phase::Running && record.end_at_ms <= now);
                if over && sandbox.expiry.is_due(now) && sandbox.transition.try_lock().is_ok() {
                    let engine = Arc::clone(&self);
                    self.tasks.spawn(async move { engine.expire(&sandbox).await });
                }
            }
        }
    }

    async fn expire(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let turn = sandbox.transition.lock().await;
        // It may have been extended while this waited for its turn.
        let now = self.now_ms();
        if !sandbox.with(|record| record.phase == Phase::Running && record.end_at_ms <= now) {
            return;
        }
        let result = if let Some(kind) = sandbox.with(|record| record.auto_pause) {
            if sandbox.expiry.is_first() {
                sandbox.note(now, "info", "Sandbox timeout reached, pausing");
            }
            let paused = self.pause_in_turn(sandbox, kind).await;
            drop(turn);
            paused
        } else {
            drop(turn);
            self.kill(sandbox).await
        };
        match result {
            // Somebody else was faster.
            Ok(()) | Err(EngineError::NotFound(_)) => sandbox.expiry.went_well(),
            Err(error) => {
                sandbox.expiry.failed(now);
                tracing::error!(sandbox.id = sandbox.id(), %error, "the end of a sandbox's time was not handled");
            }
        }
    }

    /// Ends the background work, and the sandboxes as told.
    pub(crate) async fn shut_down(self: &Arc<Self>, mode: Shutdown) {
        self.closing.store(true, Ordering::SeqCst);
        let mut endings = tokio::task::JoinSet::new();
        if mode != Shutdown::Detach {
            for sandbox in self.sandboxes() {
                let engine = Arc::clone(self);
                endings.spawn(async move {
                    let result = match mode {
                        Shutdown::KillAll => engine.kill(&sandbox).await,
                        Shutdown::PauseAll | Shutdown::Detach => engine.put_away(&sandbox).await,
                    };
                    match result {
                        // One that is being removed anyway.
                        Ok(()) | Err(EngineError::NotFound(_)) => {}
                        Err(error) => {
                            tracing::error!(sandbox.id = sandbox.id(), %error, "a sandbox was not put away");
                        }
                    }
                });
            }
        }
        while endings.join_next().await.is_some() {}
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let spawner = self.spawner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spawner) = spawner {
            // Waits for its threads: they remove the spare shells and their groups.
            tokio::task::spawn_blocking(move || spawner.stop()).await.ok();
        }
        self.groups.remove_if_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_ever_more_seldom() {
        let retry = Retry::default();
        assert!(retry.is_due(0) && retry.is_first());
        let mut now = 5;
        for pause in [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
            retry.failed(now);
            assert!(!retry.is_due(now + pause - 1), "{pause}");
            now += pause;
            assert!(retry.is_due(now) && !retry.is_first(), "{pause}");
        }
        retry.went_well();
        assert!(retry.is_due(0) && retry.is_first());
    }
}
