//! The end of sandboxes' time, and the end of the server.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Engine, Sandbox};
use crate::store::Phase;

/// How often the server looks for sandboxes whose time is over. Looking is a comparison for each of them.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
                if over && sandbox.transition.try_lock().is_ok() {
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
            sandbox.note(now, "info", "Sandbox timeout reached, pausing");
            let paused = self.pause_in_turn(sandbox, kind).await;
            drop(turn);
            paused
        } else {
            drop(turn);
            self.kill(sandbox).await
        };
        if let Err(error) = result {
            tracing::error!(sandbox.id = sandbox.id(), %error, "the end of a sandbox's time was not handled");
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
                    if let Err(error) = result {
                        tracing::error!(sandbox.id = sandbox.id(), %error, "a sandbox was not put away");
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
