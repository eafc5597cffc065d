//! A command's output as an event stream: a `command` event with its id, `output` events as it comes, then one `exit`
//! event with the command. Leaving the stream does not end the command.

use std::time::Duration;

use pvm_application::commands::{self, Live};
use pvm_application::error::AppResult;
use pvm_application::ports::{
    Ambient, ConnectVm, GetObject, PutObject, ReadFrom, RequestSave, RunCommands, StartExecution,
};
use pvm_application::store::WriteStore;
use pvm_contracts::commands::OutputStream;
use pvm_domain::Timestamp;
use pvm_domain::command::CommandStatus;
use pvm_domain::ids::CommandId;
use pvm_domain::key::Principal;
use pvm_entry::Reply;
use serde::Serialize;

use crate::commands::view::{self, Offsets};
use crate::live::{self, Out, PIECE, Source};

/// One look waits this long for something new; below the heartbeat, so that the line never falls silent.
const LOOK: Duration = Duration::from_secs(10);
/// Before the first look at a command whose VM is not ready yet.
const PAUSE: Duration = Duration::from_millis(200);

/// Everything that looking at a command takes, for as long as the stream lives.
pub(super) struct Watch<S, O, W, V, R, A> {
    store: S,
    objects: O,
    workflow: W,
    vm: V,
    saver: R,
    ambient: A,
    principal: Principal,
}

impl<S, O, W, V, R, A> Watch<S, O, W, V, R, A>
where
    S: WriteStore + Clone + 'static,
    O: PutObject + GetObject + Clone + 'static,
    W: StartExecution + Clone + 'static,
    V: RunCommands + ConnectVm + Clone + 'static,
    R: RequestSave + Clone + 'static,
    A: Ambient + Clone + 'static,
{
    pub(super) fn new(
        store: &S,
        objects: &O,
        workflow: &W,
        vm: &V,
        saver: &R,
        ambient: &A,
        principal: Principal,
    ) -> Self {
        Self {
            store: store.clone(),
            objects: objects.clone(),
            workflow: workflow.clone(),
            vm: vm.clone(),
            saver: saver.clone(),
            ambient: ambient.clone(),
            principal,
        }
    }

    async fn look(&self, live: &Live, from: ReadFrom) -> AppResult<Live> {
        let command = &live.command;
        commands::get(
            &self.store,
            &self.objects,
            &self.workflow,
            &self.vm,
            &self.saver,
            &self.ambient,
            &self.principal,
            &command.project_id,
            &command.command_id,
            from,
        )
        .await
    }
}

/// The stream's state.
pub(super) struct Output<S, O, W, V, R, A> {
    watch: Watch<S, O, W, V, R, A>,
    live: Live,
    /// Next offsets of standard output and standard error.
    next: [u64; 2],
}

impl<S, O, W, V, R, A> Output<S, O, W, V, R, A>
where
    S: WriteStore + Clone + 'static,
    O: PutObject + GetObject + Clone + 'static,
    W: StartExecution + Clone + 'static,
    V: RunCommands + ConnectVm + Clone + 'static,
    R: RequestSave + Clone + 'static,
    A: Ambient + Clone + 'static,
{
    /// A stream that goes on from these offsets of standard output and standard error.
    pub(super) fn new(watch: Watch<S, O, W, V, R, A>, live: Live, next: [u64; 2]) -> Self {
        Self { watch, live, next }
    }

    /// The answer that streams it.
    pub(super) fn reply(self) -> Reply {
        let command_id = self.live.command.command_id.clone();
        // First of all its id, by which a client that loses the stream finds the command again.
        live::reply(self, |out| out.event("command", &Began { command_id: &command_id }))
    }
}

impl<S, O, W, V, R, A> Source for Output<S, O, W, V, R, A>
where
    S: WriteStore + Clone + 'static,
    O: PutObject + GetObject + Clone + 'static,
    W: StartExecution + Clone + 'static,
    V: RunCommands + ConnectVm + Clone + 'static,
    R: RequestSave + Clone + 'static,
    A: Ambient + Clone + 'static,
{
    fn now(&self) -> Timestamp {
        self.watch.ambient.now()
    }

    async fn tell(&mut self, out: &mut Out) -> AppResult<()> {
        let is_running = self.live.command.status == CommandStatus::Running;
        if self.live.report.is_some() || !is_running {
            for (stream, next) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().zip(&mut self.next)
            {
                let chunk = view::chunk(&self.watch.objects, &self.live, stream, *next).await?;
                out.output(stream, &chunk, next);
                if !is_running {
                    // Half a character at the very end has no other half to wait for.
                    out.output(stream, &chunk, next);
                }
            }
        }
        if !is_running {
            let offsets = Offsets { stdout: Some(u64::MAX), stderr: Some(u64::MAX) };
            let ended = view::command(&self.watch.objects, self.live.clone(), offsets).await?;
            out.event("exit", &Exit { command: &ended });
            out.end();
        }
        Ok(())
    }

    async fn look(&mut self) -> AppResult<()> {
        let mut wait = LOOK;
        if self.live.report.is_none() {
            // Not started yet. A look that starts it would wait for its end, and its first output with it.
            self.watch.ambient.sleep(PAUSE).await;
            wait = Duration::ZERO;
        }
        let [stdout, stderr] = self.next;
        let from = ReadFrom { stdout, stderr, limit: PIECE as u64, wait };
        self.live = self.watch.look(&self.live, from).await?;
        Ok(())
    }
}

/// Data of the `command` event.
#[derive(Serialize)]
struct Began<'a> {
    command_id: &'a CommandId,
}

/// Data of the `exit` event: the command, without the output that was sent before.
#[derive(Serialize)]
struct Exit<'a> {
    command: &'a pvm_contracts::commands::Command,
}
