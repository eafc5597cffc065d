//! Commands, exactly once: through the journal that our envd keeps.

use std::time::Duration;

use bytes::Bytes;
use pvm_application::ports::{Chunk, ReadFrom, RunCommands, RunReport, RunSpec, RunState, VmError};
use pvm_domain::limits;
use pvm_e2b_wire::journal::{self, KillRun, MAX_READ_LIMIT, MAX_WAIT_MS, ReadRun, SERVICE, StartRun};
use pvm_e2b_wire::process::{ProcessConfig, Signal};
use serde_json::Value;

use crate::client::VmClient;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(MAX_WAIT_MS)
}

impl RunCommands for VmClient {
    async fn start_run(&self, vm_id: &str, spec: &RunSpec, wait: Duration) -> Result<RunReport, VmError> {
        let start = StartRun {
            run_id: spec.run_id.clone(),
            process: ProcessConfig {
                cmd: "/bin/bash".to_owned(),
                args: vec!["-l".to_owned(), "-c".to_owned(), spec.command.clone()],
                envs: spec.env.clone(),
                cwd: Some(spec.working_dir.clone()),
            },
            stdin: spec.stdin.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes())),
            timeout_ms: spec.timeout_secs.map(|secs| secs.saturating_mul(1000)),
            output_limit: Some(limits::OUTPUT_KEPT_BYTES as u64),
            wait_ms: Some(millis(wait)),
            limit: Some(limits::OUTPUT_INLINE_BYTES as u64),
        };
        if !self.access(vm_id).await?.journal {
            return self.start_by_script(vm_id, spec, &start, wait).await;
        }
        let report: journal::RunReport =
            self.rpc(vm_id, &spec.user, &format!("{SERVICE}Start"), &start, wait).await?;
        Ok(told(report))
    }

    async fn read_run(
        &self,
        vm_id: &str,
        run_id: &str,
        from: ReadFrom,
    ) -> Result<Option<RunReport>, VmError> {
        if !self.access(vm_id).await?.journal {
            return self.read_by_script(vm_id, run_id, from).await;
        }
        let read = ReadRun {
            run_id: run_id.to_owned(),
            stdout_offset: from.stdout,
            stderr_offset: from.stderr,
            limit: Some(from.limit.min(MAX_READ_LIMIT)),
            wait_ms: Some(millis(from.wait)),
        };
        let report = self
            .rpc::<_, journal::RunReport>(vm_id, "root", &format!("{SERVICE}Read"), &read, from.wait)
            .await;
        match report {
            Ok(report) => Ok(Some(told(report))),
            Err(VmError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn kill_run(&self, vm_id: &str, run_id: &str) -> Result<(), VmError> {
        if !self.access(vm_id).await?.journal {
            return self.kill_by_script(vm_id, run_id).await;
        }
        let kill = KillRun { run_id: run_id.to_owned(), signal: Some(Signal::Sigkill) };
        let path = format!("{SERVICE}Kill");
        match self.rpc::<_, Value>(vm_id, "root", &path, &kill, Duration::ZERO).await {
            Ok(_) | Err(VmError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn told(report: journal::RunReport) -> RunReport {
    let state = match report.state {
        journal::RunState::Running => RunState::Running,
        journal::RunState::Exited => RunState::Exited,
        journal::RunState::TimedOut => RunState::TimedOut,
        journal::RunState::Killed => RunState::Killed,
        journal::RunState::Lost => RunState::Lost,
    };
    // What could not be started says why on its error stream, where a shell would have said it.
    let mut stderr = chunk(report.stderr);
    if let Some(reason) = report.reason.filter(|_| stderr.total == 0 && state == RunState::Exited) {
        stderr = Chunk {
            next: reason.len() as u64,
            total: reason.len() as u64,
            data: Bytes::from(reason),
            offset: 0,
            dropped: 0,
        };
    }
    RunReport {
        state,
        exit_code: report.exit_code,
        signal: report.signal.as_deref().and_then(signal_number),
        duration_ms: report.duration_ms,
        stdout: chunk(report.stdout),
        stderr,
    }
}

fn chunk(chunk: journal::Chunk) -> Chunk {
    Chunk {
        data: chunk.data,
        offset: chunk.offset,
        next: chunk.next,
        total: chunk.total,
        dropped: chunk.dropped,
    }
}

/// What a run is killed with.
pub(crate) const SIGKILL: i32 = 9;
/// Numbers of the signals on Linux, x86 and ARM.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

fn signal_number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let place = SIGNALS.iter().position(|known| *known == name);
    place.and_then(|place| i32::try_from(place + 1).ok()).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        assert_eq!(signal_number("SIGKILL"), Some(9));
        assert_eq!(signal_number("SIGTERM"), Some(15));
        assert_eq!(signal_number("SIG34"), Some(34));
        assert_eq!(signal_number("nonsense"), None);
    }
}
