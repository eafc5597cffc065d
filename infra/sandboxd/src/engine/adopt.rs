//! Picking up what an earlier server left: running sandboxes go on, half-made and half-removed ones are cleared
//! away, and ones whose machine was restarted are paused with their files.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};

use super::create::blocking;
use super::sandbox::{Process, Runtime};
use super::{Engine, Sandbox};
use crate::isolation::cgroup::Group;
use crate::isolation::process;
use crate::store::{PauseKind, Phase, Record, read_last_json};

impl Engine {
    /// Looks through the state folder once, before the server accepts requests.
    pub(crate) async fn adopt_all(self: &Arc<Self>) -> io::Result<()> {
        let layout = self.layout.clone();
        blocking(move || layout.empty_trash()).await?;
        let found = self.stored_sandboxes()?;
        // Side by side: one that takes its time holds none of the others up.
        futures::stream::iter(&found)
            .for_each_concurrent(ADOPTED_AT_ONCE, |sandbox| async move {
                if let Err(error) = self.adopt(sandbox).await {
                    tracing::error!(sandbox.id = sandbox.id(), %error, "the sandbox could not be taken over");
                    self.claims.keep_all();
                }
            })
            .await;
        self.remove_stray_groups().await;
        let layout = self.layout.clone();
        blocking(move || layout.empty_trash()).await
    }

    /// The sandboxes of the state folder, with their id ranges marked as taken.
    fn stored_sandboxes(&self) -> io::Result<Vec<Arc<Sandbox>>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.layout.sandboxes())? {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            let folder = self.layout.sandbox(&id);
            match read_last_json::<Record>(&folder.record()) {
                Ok(Some(record)) => {
                    if !self.ranges.lock().unwrap_or_else(PoisonError::into_inner).mark(record.range) {
                        tracing::error!(
                            sandbox.id = id,
                            "two sandboxes have the same ids; this one is left alone"
                        );
                        self.claims.keep_all();
                        continue;
                    }
                    found.push(Sandbox::new(record, folder, None));
                }
                // The folder is made a moment before the record: such a sandbox never was.
                Ok(None) => drop(self.layout.discard(folder.path())?),
                Err(error) => {
                    tracing::error!(sandbox.id = id, %error, "the sandbox's record cannot be read; it is left alone");
                    self.claims.keep_all();
                }
            }
        }
        Ok(found)
    }

    async fn adopt(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        let record = sandbox.snapshot();
        match record.phase {
            Phase::Creating | Phase::Killing => {
                tracing::info!(sandbox.id = record.id, "clearing away a sandbox that was not finished");
                return self.clear(sandbox).await;
            }
            Phase::Running | Phase::Paused(PauseKind::Memory) => {
                if let Some(process) = self.find_process(&record)? {
                    match self.take_over(sandbox, &record, &process).await {
                        Ok(()) => return Ok(()),
                        Err(error) => {
                            tracing::warn!(sandbox.id = record.id, %error, "a running sandbox cannot be taken over");
                        }
                    }
                }
                let over = record.end_at_ms <= self.now_ms() && record.auto_pause.is_none();
                if over && record.phase == Phase::Running {
                    tracing::info!(sandbox.id = record.id, "its time ended while no server ran");
                    return self.clear(sandbox).await;
                }
            }
            Phase::Paused(PauseKind::Filesystem) => {}
        }
        self.end_processes(sandbox).await?;
        self.settle_as_files(sandbox).await;
        tracing::info!(sandbox.id = record.id, "paused with its files");
        self.registry.insert(Arc::clone(sandbox));
        Ok(())
    }

    /// The sandbox's first process, if it is still the one that was recorded.
    fn find_process(&self, record: &Record) -> io::Result<Option<Arc<Process>>> {
        if record.host_boot_id != self.host_boot_id {
            return Ok(None);
        }
        record
            .process
            .and_then(|recorded| process::adopt(recorded.pid, recorded.start_ticks))
            .map(Process::new)
            .transpose()
    }

    /// Takes a living sandbox over in the state that its record tells. One whose daemon does not answer is taken over
    /// like the others: on a busy machine it may only be slow, and its processes are its user's work.
    async fn take_over(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        record: &Record,
        process: &Arc<Process>,
    ) -> io::Result<()> {
        let runtime = Runtime::new(Arc::clone(process), &sandbox.folder)?;
        let group =
            record.group.clone().ok_or_else(|| io::Error::other("its control groups are not known"))?;
        if record.phase == Phase::Running {
            // The earlier server may have died in the middle of a pause or a resume.
            group.thaw()?;
        } else {
            blocking(move || group.freeze()).await?;
        }
        self.serve_egress(sandbox, process)?;
        sandbox.set_runtime(Some(runtime));
        self.registry.insert(Arc::clone(sandbox));
        self.watch(sandbox, Arc::clone(process));
        self.tasks.spawn(Arc::clone(self).greet(Arc::clone(sandbox), Arc::clone(process)));
        tracing::info!(sandbox.id = record.id, "adopted");
        Ok(())
    }

    /// Waits until an adopted sandbox's daemon answers, and tells it the end of its time then.
    async fn greet(self: Arc<Self>, sandbox: Arc<Sandbox>, process: Arc<Process>) {
        let mut is_late = false;
        // One that was paused meanwhile is told when it is resumed.
        while let Some(runtime) = sandbox.running() {
            let is_healthy = tokio::select! {
                is_healthy = runtime.envd.is_healthy() => is_healthy,
                () = process.gone.cancelled() => return,
                () = self.stopping.cancelled() => return,
            };
            if is_healthy {
                self.tell_end(&sandbox);
                if is_late {
                    tracing::info!(sandbox.id = sandbox.id(), "the sandbox's daemon answers now");
                }
                return;
            }
            if !is_late {
                is_late = true;
                tracing::warn!(sandbox.id = sandbox.id(), "an adopted sandbox's daemon does not answer yet");
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => {}
                () = process.gone.cancelled() => return,
                () = self.stopping.cancelled() => return,
            }
        }
    }

    async fn clear(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        self.end_processes(sandbox).await?;
        self.remove_remains(sandbox).await
    }

    /// Ends whatever runs in the sandbox's groups.
    async fn end_processes(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> io::Result<()> {
        match sandbox.with(|record| record.group.clone()) {
            Some(group) => blocking(move || end_group(&group)).await,
            // It had not come far enough to have any.
            None => Ok(()),
        }
    }

    /// Removes groups of earlier servers that belong to no sandbox, such as those of their spare shells.
    async fn remove_stray_groups(self: &Arc<Self>) {
        let used: Vec<Group> = self
            .sandboxes()
            .iter()
            .filter_map(|sandbox| sandbox.with(|record| record.group.clone()))
            .collect();
        for group in self.groups.of_earlier_runs() {
            if used.contains(&group) {
                continue;
            }
            let removed = blocking(move || {
                end_group(&group)?;
                group.remove()
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "a control group without a sandbox could not be removed");
            }
        }
    }
}

fn end_group(group: &Group) -> io::Result<()> {
    // A process may start another between the look and the signal, hence again until none is left. The first
    // process of the sandbox is among them, and takes all others with it.
    for _ in 0..ATTEMPTS {
        let pids = group.pids();
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        group.thaw().ok();
        std::thread::sleep(BETWEEN_ATTEMPTS);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "processes of the sandbox do not end"))
}

/// Sandboxes that are taken over at a time.
const ADOPTED_AT_ONCE: usize = 64;
/// When to ask a daemon again that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Five seconds in all.
const ATTEMPTS: u32 = 500;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);
