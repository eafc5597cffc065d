//! Pausing, resuming and the end of a sandbox's time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::create::blocking;
use super::sandbox::Runtime;
use super::{Engine, EngineError, Sandbox};
use crate::store::{PauseKind, Phase};

/// How long processes may take to end by themselves before a pause that keeps the files only ends them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What [`Engine::connect`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connected {
    /// It ran already.
    Running,
    /// It was paused and runs now.
    Resumed,
}

/// How a paused sandbox came to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Its processes went on.
    Warm,
    /// From its files, without any of its processes.
    Cold,
}

impl Engine {
    /// Pauses a running sandbox.
    pub(crate) async fn pause(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        kind: PauseKind,
    ) -> Result<(), EngineError> {
        let _turn = sandbox.transition.lock().await;
        self.pause_in_turn(sandbox, kind).await
    }

    pub(super) async fn pause_in_turn(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        kind: PauseKind,
    ) -> Result<(), EngineError> {
        let runtime = match sandbox.with(|record| record.phase) {
            Phase::Running => sandbox.any_runtime(),
            Phase::Paused(_) => {
                return Err(EngineError::Conflict(format!("sandbox {} is already paused", sandbox.id())));
            }
            Phase::Creating | Phase::Killing => return Err(EngineError::NotFound(sandbox.id().to_owned())),
        };
        let runtime = runtime.ok_or_else(|| EngineError::NotFound(sandbox.id().to_owned()))?;
        let recording = EngineError::at("recording the pause");
        // Stored first: a server that dies from here on finishes the pause when it is back.
        sandbox.update(|record| record.phase = Phase::Paused(kind)).map_err(recording)?;
        match kind {
            PauseKind::Memory => {
                runtime.streams.cancel();
                if let Err(error) = self.freeze(sandbox).await {
                    self.run_again(sandbox, &runtime)?;
                    return Err(EngineError::at("freezing the sandbox")(error));
                }
            }
            PauseKind::Filesystem => {
                self.stop_processes(sandbox, &runtime)
                    .await
                    .map_err(EngineError::at("stopping the sandbox"))?;
            }
        }
        let kept = match kind {
            PauseKind::Memory => "Sandbox paused (memory kept)",
            PauseKind::Filesystem => "Sandbox paused (files kept)",
        };
        sandbox.note(self.now_ms(), "info", kept);
        Ok(())
    }

    async fn freeze(&self, sandbox: &Arc<Sandbox>) -> std::io::Result<()> {
        let group = sandbox
            .with(|record| record.group.clone())
            .ok_or_else(|| std::io::Error::other("the sandbox has no control groups"))?;
        blocking(move || group.freeze()).await
    }

    /// Ends all processes in an orderly way and keeps the files. Works on a frozen sandbox too.
    async fn stop_processes(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        runtime: &Arc<Runtime>,
    ) -> std::io::Result<()> {
        runtime.process.expected_end.store(true, Ordering::SeqCst);
        if let Some(group) = sandbox.with(|record| record.group.clone()) {
            group.thaw()?;
        }
        // A fresh connection: the ones of a frozen sandbox were broken off.
        let asked = match Runtime::new(Arc::clone(&runtime.process), &sandbox.folder) {
            Ok(fresh) => fresh.envd.shut_down(SHUTDOWN_GRACE).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = asked {
            tracing::info!(sandbox.id = sandbox.id(), error, "the sandbox did not shut down by itself");
        }
        runtime.streams.cancel();
        runtime.process.kill()?;
        runtime.process.ended().await;
        runtime.process.gone.cancel();
        sandbox.set_runtime(None);
        self.settle_as_files(sandbox).await;
        Ok(())
    }

    /// A sandbox whose processes go on after they stood still: clients need fresh connections.
    #[expect(clippy::unused_self, reason = "beside its siblings, which need the engine")]
    fn run_again(&self, sandbox: &Arc<Sandbox>, runtime: &Arc<Runtime>) -> Result<(), EngineError> {
        let step = "resuming the sandbox";
        let fresh =
            Runtime::new(Arc::clone(&runtime.process), &sandbox.folder).map_err(EngineError::at(step))?;
        sandbox.update(|record| record.phase = Phase::Running).map_err(EngineError::at(step))?;
        sandbox.set_runtime(Some(fresh));
        Ok(())
    }

    /// Makes sure that a sandbox runs, for at least `timeout_ms` from now. A running one is only ever extended.
    ///
    /// `keep_memory` false starts one that was frozen anew from its files.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        timeout_ms: u64,
        keep_memory: bool,
    ) -> Result<Connected, EngineError> {
        let turn = sandbox.transition.lock().await;
        let end = self.now_ms().saturating_add(timeout_ms);
        match sandbox.with(|record| record.phase) {
            Phase::Running => {
                self.move_end(sandbox, end, true)?;
                Ok(Connected::Running)
            }
            Phase::Paused(kind) => {
                let start = self.resume_in_turn(sandbox, kind, end, keep_memory).await?;
                drop(turn);
                if start == Start::Cold {
                    self.run_start_command(sandbox).await;
                }
                Ok(Connected::Resumed)
            }
            Phase::Killing => Err(EngineError::Conflict(format!("sandbox {} is being killed", sandbox.id()))),
            Phase::Creating => Err(EngineError::NotFound(sandbox.id().to_owned())),
        }
    }

    async fn resume_in_turn(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        kind: PauseKind,
        end_at_ms: u64,
        keep_memory: bool,
    ) -> Result<Start, EngineError> {
        let now = self.now_ms();
        let recording = EngineError::at("recording the resume");
        sandbox
            .update(|record| {
                record.started_at_ms = now;
                record.end_at_ms = end_at_ms;
            })
            .map_err(recording)?;
        let runtime = sandbox.any_runtime();
        let start = match (kind, runtime) {
            (PauseKind::Memory, Some(runtime)) if keep_memory => {
                // Stored as running first: a server that dies in between lets the processes go on when it is back.
                self.run_again(sandbox, &runtime)?;
                if let Some(group) = sandbox.with(|record| record.group.clone()) {
                    group.thaw().map_err(EngineError::at("resuming the sandbox"))?;
                }
                self.tell_end(sandbox);
                Start::Warm
            }
            (_, runtime) => {
                if let Some(runtime) = runtime {
                    self.stop_processes(sandbox, &runtime)
                        .await
                        .map_err(EngineError::at("stopping the sandbox"))?;
                }
                let limits = sandbox.with(|record| record.limits);
                if let Err(error) = self.start(sandbox, &limits).await {
                    self.settle_as_files(sandbox).await;
                    return Err(error);
                }
                Start::Cold
            }
        };
        sandbox.note(now, "info", "Sandbox resumed");
        Ok(start)
    }

    /// Sets what happens when a sandbox's time is over: a pause, or its removal.
    #[expect(clippy::unused_self, reason = "beside its siblings, which need the engine")]
    pub(crate) fn set_auto_pause(
        &self,
        sandbox: &Arc<Sandbox>,
        auto_pause: Option<PauseKind>,
    ) -> Result<(), EngineError> {
        sandbox.change("recording what happens at the timeout", |record| {
            record.auto_pause = auto_pause;
            Ok(())
        })
    }

    /// Changes a sandbox's labels; what `change` refuses does not happen.
    #[expect(clippy::unused_self, reason = "beside its siblings, which need the engine")]
    pub(crate) fn change_metadata(
        &self,
        sandbox: &Arc<Sandbox>,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), String>,
    ) -> Result<(), EngineError> {
        sandbox.change("recording the labels", |record| {
            change(&mut record.metadata).map_err(EngineError::Invalid)
        })
    }

    /// Sets when a running sandbox's time is over, or with `only_later` extends it at most. A sandbox that does not run
    /// has no end to move: to callers it is not there.
    pub(crate) fn move_end(
        &self,
        sandbox: &Arc<Sandbox>,
        end_at_ms: u64,
        only_later: bool,
    ) -> Result<(), EngineError> {
        sandbox.change("recording the timeout", |record| {
            if record.phase != Phase::Running {
                return Err(EngineError::NotFound(record.id.clone()));
            }
            record.end_at_ms = if only_later { record.end_at_ms.max(end_at_ms) } else { end_at_ms };
            Ok(())
        })?;
        self.tell_end(sandbox);
        Ok(())
    }

    /// Tells envd, which ends the sandbox by itself some time later if this server never comes back.
    pub(super) fn tell_end(&self, sandbox: &Arc<Sandbox>) {
        let Some(runtime) = sandbox.running() else { return };
        let sandbox = Arc::clone(sandbox);
        self.tasks.spawn(async move {
            let end = sandbox.with(|record| record.end_at_ms);
            if let Err(error) = runtime.envd.set_end(end).await {
                tracing::debug!(sandbox.id = sandbox.id(), %error, "envd was not told of the new end");
            }
        });
    }

    /// Stops a sandbox for the server's own shutdown: its files are kept, nothing of it runs.
    pub(super) async fn put_away(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let _turn = sandbox.transition.lock().await;
        match sandbox.with(|record| record.phase) {
            Phase::Running => self.pause_in_turn(sandbox, PauseKind::Filesystem).await,
            Phase::Paused(PauseKind::Memory) => match sandbox.any_runtime() {
                Some(runtime) => self
                    .stop_processes(sandbox, &runtime)
                    .await
                    .map_err(EngineError::at("stopping the sandbox")),
                None => Ok(()),
            },
            Phase::Paused(PauseKind::Filesystem) | Phase::Creating | Phase::Killing => Ok(()),
        }
    }
}
