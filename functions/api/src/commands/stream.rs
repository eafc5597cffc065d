//! A command's output as an event stream: a `command` event with its id, `output` events as it comes, then one `exit`
//! event with the command. Leaving the stream does not end the command.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use pvm_application::commands::{self, Live};
use pvm_application::error::AppResult;
use pvm_application::ports::{
    Ambient, Chunk, ConnectVm, GetObject, PutObject, ReadFrom, RequestSave, RunCommands, StartExecution,
};
use pvm_application::store::WriteStore;
use pvm_contracts::commands::{CommandOutput, OutputStream};
use pvm_domain::command::CommandStatus;
use pvm_domain::ids::CommandId;
use pvm_domain::key::Principal;
use pvm_domain::{Timestamp, limits};
use pvm_entry::{Reply, problem, reply};
use serde::Serialize;

use crate::commands::view::{self, Offsets};
use crate::output::text_of;
use crate::sse;

/// One look waits this long for something new; below the heartbeat, so that the line never falls silent.
const LOOK: Duration = Duration::from_secs(10);
/// Bytes of one stream in one event.
const PIECE: usize = 64 * 1024;
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
    queue: VecDeque<Bytes>,
    opened_at: Timestamp,
    sent_at: Timestamp,
    over: bool,
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
        let now = watch.ambient.now();
        // First of all its id, by which a client that loses the stream finds the command again.
        let began = Began { command_id: &live.command.command_id };
        let queue = VecDeque::from([sse::retry(), sse::event(None, "command", &began)]);
        Self { watch, live, next, queue, opened_at: now, sent_at: now, over: false }
    }

    /// The answer that streams it.
    pub(super) fn reply(self) -> Reply {
        let pieces = stream::unfold(self, async |mut output| {
            let piece = output.piece().await?;
            Some((Ok(piece), output))
        });
        reply::stream(sse::MEDIA_TYPE, pieces)
    }

    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.queue.pop_front() {
                self.sent_at = self.watch.ambient.now();
                return Some(piece);
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.advance().await {
                let problem = problem::document(&error, "", "");
                self.queue.push_back(sse::event(None, "error", &problem));
                self.over = true;
            }
        }
    }

    /// Takes over what is known, then looks for more.
    async fn advance(&mut self) -> AppResult<()> {
        self.take(OutputStream::Stdout).await?;
        self.take(OutputStream::Stderr).await?;
        if self.live.command.status != CommandStatus::Running {
            let offsets = Offsets { stdout: Some(u64::MAX), stderr: Some(u64::MAX) };
            let ended = view::command(&self.watch.objects, self.live.clone(), offsets).await?;
            self.queue.push_back(sse::event(None, "exit", &Exit { command: &ended }));
            self.over = true;
            return Ok(());
        }
        if !self.queue.is_empty() {
            return Ok(());
        }
        let now = self.watch.ambient.now();
        let age = |since: Timestamp| now.duration_since(since).as_secs();
        if age(self.opened_at) >= limits::SSE_CLOSE_SECS.cast_signed() {
            self.over = true;
            return Ok(());
        }
        if age(self.sent_at) >= limits::SSE_HEARTBEAT_SECS.cast_signed() {
            self.queue.push_back(sse::heartbeat());
            return Ok(());
        }
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

    async fn take(&mut self, stream: OutputStream) -> AppResult<()> {
        let place = usize::from(stream == OutputStream::Stderr);
        if self.live.report.is_none() && self.live.command.status == CommandStatus::Running {
            return Ok(());
        }
        let chunk = view::chunk(&self.watch.objects, &self.live, stream, self.next[place]).await?;
        let skip = self.next[place].saturating_sub(chunk.offset);
        let mut data = chunk.data.slice(usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.data.len())..);
        let mut offset = chunk.offset.max(self.next[place]);
        while !data.is_empty() {
            let piece = data.split_to(PIECE.min(data.len()));
            let next = offset + piece.len() as u64;
            let (text, next) = text_of(&Chunk { data: piece, offset, next, total: next, dropped: 0 });
            self.queue.push_back(sse::event(None, "output", &CommandOutput { stream, data: text, offset }));
            offset = next;
        }
        self.next[place] = offset.max(self.next[place]);
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
