//! A VM that keeps a run journal and nothing else. A command's text says what it does: `fail` exits with 1, `slow N`
//! takes N seconds of simulated time, `gate` stands before the VM's gate, `clock` prints the time, anything else prints
//! itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pvm_application::ports::{
    ByteStream, Chunk, ConnectVm, CreateVm, EndVm, FindVm, HeaderRule, NewVm, ReadFrom, RunCommands,
    RunReport, RunSpec, RunState, SetEgress, VmEntry, VmError, VmFiles, VmInfo,
};
use pvm_asl::{Clock as _, SimClock};
use pvm_domain::Timestamp;

use super::crash::{Points, sleep};
use super::gate::Gate;

#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub points: Arc<Points>,
    pub clock: SimClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By VM and run: what it runs and since when.
    journal: BTreeMap<(String, String), Entry>,
    gone: Vec<String>,
    /// Every start, in order: VM, run, text.
    starts: Vec<(String, String, String)>,
    /// The next start ends the VM after it was made.
    dies_at_next_start: bool,
    /// So many of the next kills fail.
    failing_kills: u32,
    /// Where runs of `gate` stand.
    gate: Option<Gate>,
}

#[derive(Debug, Clone)]
struct Entry {
    text: String,
    since: Timestamp,
    killed: bool,
}

impl Vm {
    pub(crate) fn new(points: Arc<Points>, clock: SimClock) -> Self {
        Self { points, clock, state: Arc::default() }
    }

    /// Every start that was made: VM, run, text.
    pub(crate) fn starts(&self) -> Vec<(String, String, String)> {
        self.state.lock().unwrap().starts.clone()
    }

    /// The texts of runs that were killed.
    pub(crate) fn killed(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.journal.values().filter(|entry| entry.killed).map(|entry| entry.text.clone()).collect()
    }

    /// The gate before which commands that begin with `gate` stand.
    pub(crate) fn gate(&self) -> Gate {
        self.state.lock().unwrap().gate.get_or_insert_with(|| Gate::new(&self.clock)).clone()
    }

    /// So many of the next kills fail.
    pub(crate) fn fail_kills(&self, count: u32) {
        self.state.lock().unwrap().failing_kills = count;
    }

    /// The VM ends now.
    pub(crate) fn die(&self, vm_id: &str) {
        self.state.lock().unwrap().gone.push(vm_id.to_owned());
    }

    pub(crate) fn die_at_next_start(&self) {
        self.state.lock().unwrap().dies_at_next_start = true;
    }

    fn report(&self, vm_id: &str, run_id: &str) -> Option<RunReport> {
        let state = self.state.lock().unwrap();
        let entry = state.journal.get(&(vm_id.to_owned(), run_id.to_owned()))?;
        let ran = self.clock.now().duration_since(entry.since).as_secs().cast_unsigned();
        let takes =
            entry.text.strip_prefix("slow ").and_then(|secs| secs.trim().parse::<u64>().ok()).unwrap_or(0);
        let (run_state, exit_code) = match () {
            () if entry.killed => (RunState::Killed, None),
            () if ran < takes => (RunState::Running, None),
            () => (RunState::Exited, Some(i32::from(entry.text.starts_with("fail")))),
        };
        let mut data = format!("did: {}\n", entry.text);
        if entry.text == "clock" {
            data += &entry.since.to_string();
        }
        let data = Bytes::from(data);
        let length = data.len() as u64;
        let stdout = Chunk { data, offset: 0, next: length, total: length, dropped: 0 };
        let signal = entry.killed.then_some(9);
        Some(RunReport {
            state: run_state,
            exit_code,
            signal,
            duration_ms: ran * 1000,
            stdout,
            stderr: Chunk::default(),
        })
    }

    async fn wait(&self, vm_id: &str, run_id: &str, wait: Duration) -> Result<Option<RunReport>, VmError> {
        let report = self.report(vm_id, run_id);
        if report.as_ref().is_some_and(|report| report.stdout.data.starts_with(b"did: gate")) {
            self.gate().pass().await;
        }
        let running = report.is_some_and(|report| report.state == RunState::Running);
        if running && !wait.is_zero() {
            sleep(&self.clock, wait).await;
        }
        if self.state.lock().unwrap().gone.iter().any(|gone| gone == vm_id) {
            return Err(VmError::Gone);
        }
        Ok(self.report(vm_id, run_id))
    }
}

impl RunCommands for Vm {
    async fn start_run(&self, vm_id: &str, spec: &RunSpec, wait: Duration) -> Result<RunReport, VmError> {
        self.points.pass("before a start in the VM").await;
        {
            let mut state = self.state.lock().unwrap();
            if state.gone.iter().any(|gone| gone == vm_id) {
                return Err(VmError::Gone);
            }
            let key = (vm_id.to_owned(), spec.run_id.clone());
            if !state.journal.contains_key(&key) {
                let text = spec.stdin.clone().unwrap_or_else(|| spec.command.clone());
                state.starts.push((vm_id.to_owned(), spec.run_id.clone(), text.clone()));
                state.journal.insert(key, Entry { text, since: self.clock.now(), killed: false });
                if std::mem::take(&mut state.dies_at_next_start) {
                    state.gone.push(vm_id.to_owned());
                    return Err(VmError::Gone);
                }
            }
        }
        self.points.pass("after a start in the VM").await;
        self.wait(vm_id, &spec.run_id, wait).await?.ok_or(VmError::Gone)
    }

    async fn read_run(
        &self,
        vm_id: &str,
        run_id: &str,
        from: ReadFrom,
    ) -> Result<Option<RunReport>, VmError> {
        self.points.pass("while a run in the VM is read").await;
        self.wait(vm_id, run_id, from.wait).await
    }

    async fn kill_run(&self, vm_id: &str, run_id: &str) -> Result<(), VmError> {
        self.points.pass("before a kill in the VM").await;
        {
            let mut state = self.state.lock().unwrap();
            if state.failing_kills > 0 {
                state.failing_kills -= 1;
                return Err(VmError::Unavailable(anyhow::anyhow!("the VM did not answer")));
            }
        }
        let is_gate = |report: &RunReport| report.stdout.data.starts_with(b"did: gate");
        let running = self
            .report(vm_id, run_id)
            .is_some_and(|report| report.state == RunState::Running || is_gate(&report));
        {
            let mut state = self.state.lock().unwrap();
            let entry = state.journal.get_mut(&(vm_id.to_owned(), run_id.to_owned()));
            if let Some(entry) = entry.filter(|_| running) {
                entry.killed = true;
            }
        }
        self.points.pass("after a kill in the VM").await;
        Ok(())
    }
}

impl ConnectVm for Vm {
    async fn connect_vm(&self, vm_id: &str, _: u64) -> Result<VmInfo, VmError> {
        Err(VmError::NotFound(vm_id.to_owned()))
    }
    async fn boot_id(&self, vm_id: &str) -> Result<String, VmError> {
        Ok(format!("boot of {vm_id}"))
    }
    fn port_url(&self, vm_id: &str, port: u16) -> String {
        format!("http://{port}-{vm_id}.test")
    }
}

fn unused<T>() -> Result<T, VmError> {
    Err(VmError::Refused("the scripted VM has no such thing".to_owned()))
}

impl CreateVm for Vm {
    async fn create_vm(&self, _: &NewVm) -> Result<VmInfo, VmError> {
        unused()
    }
}
impl FindVm for Vm {
    async fn vm(&self, _: &str) -> Result<Option<VmInfo>, VmError> {
        unused()
    }
    async fn vms(&self, _: Option<&str>) -> Result<Vec<VmInfo>, VmError> {
        unused()
    }
}
impl EndVm for Vm {
    async fn pause_vm(&self, _: &str) -> Result<(), VmError> {
        unused()
    }
    async fn kill_vm(&self, _: &str) -> Result<(), VmError> {
        unused()
    }
}
impl SetEgress for Vm {
    async fn set_egress(&self, _: &str, _: &[HeaderRule]) -> Result<(), VmError> {
        Ok(())
    }
}
impl VmFiles for Vm {
    async fn read_file(&self, _: &str, _: &str, _: &str, _: u64) -> Result<Bytes, VmError> {
        unused()
    }
    async fn read_file_stream(&self, _: &str, _: &str, _: &str) -> Result<(u64, ByteStream), VmError> {
        unused()
    }
    async fn write_file(&self, _: &str, _: &str, _: &str, _: Bytes) -> Result<(), VmError> {
        unused()
    }
    async fn write_file_stream(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: u64,
        _: ByteStream,
    ) -> Result<(), VmError> {
        unused()
    }
    async fn stat(&self, _: &str, _: &str, _: &str) -> Result<Option<VmEntry>, VmError> {
        unused()
    }
    async fn list_dir(&self, _: &str, _: &str, _: &str, _: u32) -> Result<Vec<VmEntry>, VmError> {
        unused()
    }
    async fn remove(&self, _: &str, _: &str, _: &str) -> Result<(), VmError> {
        unused()
    }
    async fn scan_workspace(&self, _: &str) -> Result<Vec<VmEntry>, VmError> {
        unused()
    }
}
