//! A service's output as an event stream: `output` events as it comes, a `state` event at every change. It goes on over
//! the service's restarts and ends when the service is stopped.

use std::time::Duration;

use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::ports::{Ambient, ReadFrom, RunCommands, RunReport, RunState};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_contracts::commands::OutputStream;
use pvm_contracts::services::Service as Shown;
use pvm_domain::Timestamp;
use pvm_domain::key::Principal;
use pvm_domain::service::{Service, ServiceStatus};
use pvm_entry::{Reply, problem};

use crate::live::{self, Out, PIECE, Source};

/// One look waits this long for something new; below the heartbeat, so that the line never falls silent.
const LOOK: Duration = Duration::from_secs(10);
/// Before the next look at a service that has no program to wait for.
const PAUSE: Duration = Duration::from_secs(1);

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
}

impl<S, V, A> Follow<S, V, A>
where
    S: WriteStore + 'static,
    V: RunCommands + 'static,
    A: Ambient + 'static,
{
    pub(super) fn new(watch: Watch<S, V, A>, service: Service, report: Option<RunReport>) -> Self {
        let next = report.as_ref().map_or([0, 0], |report| [report.stdout.offset, report.stderr.offset]);
        Self { watch, service, report, told: None, next }
    }

    /// The answer that streams it.
    pub(super) fn reply(self) -> Reply {
        live::reply(self, |_| {})
    }

    fn tell_state(&mut self, out: &mut Out) {
        self.told = Some(self.service.version);
        out.event("state", &Shown::new(self.service.clone(), None));
    }
}

impl<S, V, A> Source for Follow<S, V, A>
where
    S: WriteStore + 'static,
    V: RunCommands + 'static,
    A: Ambient + 'static,
{
    fn now(&self) -> Timestamp {
        self.watch.ambient.now()
    }

    async fn tell(&mut self, out: &mut Out) -> AppResult<()> {
        if let Some(report) = self.report.take() {
            let [stdout, stderr] = &mut self.next;
            out.output(OutputStream::Stdout, &report.stdout, stdout);
            out.output(OutputStream::Stderr, &report.stderr, stderr);
        }
        if self.told != Some(self.service.version) {
            self.tell_state(out);
        }
        Ok(())
    }

    async fn look(&mut self) -> AppResult<()> {
        let [stdout, stderr] = self.next;
        // A service that is starting is looked at more often: its getting ready is no output.
        let wait = if self.service.status == ServiceStatus::Starting { PAUSE } else { LOOK };
        let from = ReadFrom { stdout, stderr, limit: PIECE as u64, wait };
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

    fn fail(&mut self, error: &AppError, out: &mut Out) {
        // It was stopped and forgotten: that is how following it ends.
        if error.code == ErrorCode::NotFound {
            self.service.status = ServiceStatus::Stopped;
            self.tell_state(out);
        } else {
            out.event("error", &problem::document(error, "", ""));
        }
    }
}
