//! Starting a service's program in a VM and watching it get ready. Safe to repeat: both are runs of the journal.

use std::time::Duration;

use pvm_domain::service::{Service, ServiceStatus};

use crate::ports::{ReadFrom, RunCommands, RunReport, RunState, VmError};
use crate::services::script;

/// A service with nothing to watch counts as running when it has lived this long.
const SETTLE: Duration = Duration::from_millis(300);
/// Bytes of output that go into the reason of a failure.
const REASON_BYTES: u64 = 2_000;

/// Starts the program unless it was started before, and looks at it for up to `wait`. Answers its status and, for a
/// failure, the reason with its last output.
///
/// # Errors
/// Of the VM.
pub(super) async fn begin(
    vm: &impl RunCommands,
    vm_id: &str,
    service: &Service,
    wait: Duration,
) -> Result<(ServiceStatus, Option<String>), VmError> {
    let first = vm.start_run(vm_id, &script::supervisor(service), Duration::ZERO).await?;
    if first.state != RunState::Running {
        return Ok(ended(&first));
    }
    watch(vm, vm_id, service, wait).await
}

/// Looks at a service that was started, for up to `wait`.
///
/// # Errors
/// Of the VM.
pub(super) async fn watch(
    vm: &impl RunCommands,
    vm_id: &str,
    service: &Service,
    wait: Duration,
) -> Result<(ServiceStatus, Option<String>), VmError> {
    let Some(watcher) = script::watcher(service) else {
        let report = end_within(vm, vm_id, service, wait.min(SETTLE)).await?;
        return Ok(report.map_or((ServiceStatus::Running, None), |report| ended(&report)));
    };
    let watched = tokio::select! {
        report = vm.start_run(vm_id, &watcher, wait) => report?,
        end = end_for_sure(vm, vm_id, service, wait) => {
            if let Some(report) = end? {
                return Ok(ended(&report));
            }
            return Ok((ServiceStatus::Starting, None));
        }
    };
    match (watched.state, watched.exit_code) {
        (RunState::Running, _) => Ok((ServiceStatus::Starting, None)),
        (RunState::Exited, Some(0)) => Ok((ServiceStatus::Running, None)),
        _ => {
            let report = tail(vm, vm_id, service).await?;
            if let Some(report) = report.as_ref().filter(|report| report.state != RunState::Running) {
                return Ok(ended(report));
            }
            let said = report.map(|report| output(&report)).unwrap_or_default();
            let secs = service.ready_timeout_secs;
            Ok((ServiceStatus::Failed, Some(format!("It did not get ready within {secs} s.{said}"))))
        }
    }
}

/// Waits until the program has ended; `None` after `wait`.
async fn end_within(
    vm: &impl RunCommands,
    vm_id: &str,
    service: &Service,
    wait: Duration,
) -> Result<Option<RunReport>, VmError> {
    let report = vm.start_run(vm_id, &script::supervisor(service), wait).await?;
    Ok((report.state != RunState::Running).then_some(report))
}

/// [`end_within`] that answers only when the program has ended or the time is over.
async fn end_for_sure(
    vm: &impl RunCommands,
    vm_id: &str,
    service: &Service,
    wait: Duration,
) -> Result<Option<RunReport>, VmError> {
    // A little longer than the watcher, so that its own answer comes first.
    end_within(vm, vm_id, service, wait + Duration::from_millis(200)).await
}

/// The program's report with its last output.
///
/// # Errors
/// Of the VM.
pub(super) async fn tail(
    vm: &impl RunCommands,
    vm_id: &str,
    service: &Service,
) -> Result<Option<RunReport>, VmError> {
    let all = ReadFrom { stdout: u64::MAX >> 1, stderr: u64::MAX >> 1, limit: 1, wait: Duration::ZERO };
    let Some(report) = vm.read_run(vm_id, &service.journal_id(), all).await? else { return Ok(None) };
    let from = ReadFrom {
        stdout: report.stdout.total.saturating_sub(REASON_BYTES),
        stderr: report.stderr.total.saturating_sub(REASON_BYTES),
        limit: REASON_BYTES,
        wait: Duration::ZERO,
    };
    vm.read_run(vm_id, &service.journal_id(), from).await
}

/// What to say of a program that ended by itself.
pub(super) fn ended(report: &RunReport) -> (ServiceStatus, Option<String>) {
    let how = match (report.state, report.exit_code, report.signal) {
        (RunState::Killed, ..) => return (ServiceStatus::Stopped, None),
        (RunState::Lost, ..) => "Its VM was lost.".to_owned(),
        (_, Some(code), _) => format!("It ended with exit status {code}."),
        (_, None, Some(signal)) => format!("It was ended by signal {signal}."),
        _ => "It ended.".to_owned(),
    };
    (ServiceStatus::Failed, Some(format!("{how}{}", output(report))))
}

fn output(report: &RunReport) -> String {
    let both = [&report.stdout.data[..], &report.stderr.data[..]].concat();
    let text = String::from_utf8_lossy(&both);
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    format!(" Its last output: {}", pvm_domain::text::tail(text, REASON_BYTES as usize))
}
