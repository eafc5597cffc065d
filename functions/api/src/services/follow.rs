//! A service's output as an event stream: `output` events as it comes, a `state` event at every change. It goes on over
//! the service's restarts and ends when the service is stopped.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use pvm_application::error::{AppResult, ErrorCode};
use pvm_application::ports::{Ambient, Chunk, ReadFrom, RunCommands, RunReport, RunState};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_contracts::commands::{CommandOutput, OutputStream};
use pvm_contracts::services::Service as Shown;
use pvm_domain::key::Principal;
use pvm_domain::service::{Service, ServiceStatus};
use pvm_domain::{Timestamp, limits};
use pvm_entry::{Reply, problem, reply};

use crate::output::text_of;
use crate::sse;

/// One look waits this long for something new; below the heartbeat, so that the line never falls silent.
const LOOK: Duration = Duration::from_secs(10);
/// Before the next look at a service that has no program to wait for.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of one stream in one event.
const PIECE: u64 = 64 * 1024;

/// Everything that looking at a service takes, for as long as the stream lives.
pub(super) struct Watch<S, V, A> {
    pub(super) store: S,
    pub(super) vm: V,
    pub(super) ambient: A,
    pub(super) principal: Principal,
}

/// The stream's state.
pub(super) struct Follow<S, V, A> {
    watch: Watch<S, V, A>,
    service: Service,
    report: Option<RunReport>,
    /// Version of the record that was told last.
    told: Option<u64>,
    /// Next offsets of standard output and standard error.
    next: [u64; 2],
    queue: VecDeque<Bytes>,
    opened_at: Timestamp,
    sent_at: Timestamp,
    over: bool,
}

impl<S, V, A> Follow<S, V, A>
where
    S: WriteStore + 'static,
    V: RunCommands + 'static,
    A: Ambient + 'static,
{
    pub(super) fn new(watch: Watch<S, V, A>, service: Service, report: Option<RunReport>) -> Self {
        let now = watch.ambient.now();
        let next = report.as_ref().map_or([0, 0], |report| [report.stdout.offset, report.stderr.offset]);
        let queue = VecDeque::from([sse::retry()]);
        Self { watch, service, report, told: None, next, queue, opened_at: now, sent_at: now, over: false }
    }

    /// The answer that streams it.
    pub(super) fn reply(self) -> Reply {
        let pieces = stream::unfold(self, async |mut follow| {
            let piece = follow.piece().await?;
            Some((Ok(piece), follow))
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
                // It was stopped and forgotten: that is how following it ends.
                let stopped = error.code == ErrorCode::NotFound;
                if stopped {
                    self.service.status = ServiceStatus::Stopped;
                    self.tell();
                } else {
                    self.queue.push_back(sse::event(None, "error", &problem::document(&error, "", "")));
                }
                self.over = true;
            }
        }
    }

    fn tell(&mut self) {
        self.told = Some(self.service.version);
        self.queue.push_back(sse::event(None, "state", &Shown::new(self.service.clone(), None)));
    }

    /// Sends what is known, then looks for more.
    async fn advance(&mut self) -> AppResult<()> {
        if let Some(report) = self.report.take() {
            self.take(&report.stdout, OutputStream::Stdout);
            self.take(&report.stderr, OutputStream::Stderr);
        }
        if self.told != Some(self.service.version) {
            self.tell();
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
        self.look().await
    }

    async fn look(&mut self) -> AppResult<()> {
        let [stdout, stderr] = self.next;
        // A service that is starting is looked at more often: its getting ready is no output.
        let wait = if self.service.status == ServiceStatus::Starting { PAUSE } else { LOOK };
        let from = ReadFrom { stdout, stderr, limit: PIECE, wait };
        let Watch { store, vm, ambient, principal } = &self.watch;
        let (project, service) = (self.service.project_id.clone(), self.service.service_id.clone());
        let (service, report) =
            services::logs(store, vm, ambient, principal, &project, &service, from).await?;
        let another_start = service.attempt != self.service.attempt;
        self.service = service;
        if another_start {
            // Its output begins anew; what was read is of the start before.
            self.next = [0, 0];
            return Ok(());
        }
        let idle = report.as_ref().is_none_or(|report| {
            let nothing = report.stdout.data.is_empty() && report.stderr.data.is_empty();
            nothing && report.state != RunState::Running
        });
        self.report = report;
        if idle {
            self.watch.ambient.sleep(PAUSE).await;
        }
        Ok(())
    }

    fn take(&mut self, chunk: &Chunk, stream: OutputStream) {
        let place = usize::from(stream == OutputStream::Stderr);
        let Some(next) = self.next.get_mut(place) else { return };
        if chunk.data.is_empty() || chunk.next <= *next {
            return;
        }
        let (text, after) = text_of(chunk);
        self.queue.push_back(sse::event(
            None,
            "output",
            &CommandOutput { stream, data: text, offset: chunk.offset },
        ));
        *next = after;
    }
}
