//! The run journal on servers whose envd keeps none: a POSIX script in the VM, put there at its first use and called
//! through E2B's protocol. It keeps the same promise in the same folder: a run is claimed by `mkdir` and never starts
//! twice, and its output and end outlive the caller.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use pvm_application::ports::{Chunk, ReadFrom, RunReport, RunSpec, RunState, VmError, VmFiles};
use pvm_domain::limits;
use pvm_e2b_wire::journal::{MAX_READ_LIMIT, MAX_WAIT_MS, StartRun, is_valid_run_id};
use pvm_e2b_wire::process::ProcessConfig;
use sha2::{Digest as _, Sha256};

use crate::client::VmClient;
use crate::process::Finished;
use crate::runs;

const SCRIPT: &str = include_str!("journal.sh");
/// Where the script lies. Its name has its hash, so that a new version is put beside the old one, which may be running.
static PLACE: LazyLock<String> = LazyLock::new(|| {
    let hash = hex::encode(Sha256::digest(SCRIPT));
    format!("/var/lib/pvm/journal-{}.sh", &hash[..12])
});
/// Runs the script if it is there: `$0` is its place.
const CALL: &str = "[ -f \"$0\" ] || exit 98; exec /bin/sh \"$0\" \"$@\"";

/// The largest number that a shell counts with.
const OFFSET_MOST: u64 = i64::MAX.cast_unsigned();
/// Exit codes of the script, and of [`CALL`] where it is missing.
const REFUSED: i32 = 64;
const OTHER_RUN: i32 = 65;
const NO_RUN: i32 = 66;
const NO_SCRIPT: i32 = 98;

/// Hundredths of a second, as the script counts.
fn hundredths(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(MAX_WAIT_MS) / 10
}

fn checked(run_id: &str) -> Result<(), VmError> {
    // It becomes a folder's name and a shell's argument.
    if is_valid_run_id(run_id) {
        Ok(())
    } else {
        Err(VmError::Refused(format!("{run_id:?} is not an id of a run.")))
    }
}

impl VmClient {
    /// Calls the script, putting it into the VM first where it is missing.
    async fn call_script(
        &self,
        vm_id: &str,
        arguments: Vec<String>,
        wait: Duration,
    ) -> Result<Finished, VmError> {
        let mut args = vec!["-c".to_owned(), CALL.to_owned(), PLACE.clone()];
        args.extend(arguments);
        let process = ProcessConfig {
            cmd: "/bin/sh".to_owned(),
            args,
            cwd: Some("/".to_owned()),
            ..ProcessConfig::default()
        };
        let mut called = self.run_process(vm_id, "root", process.clone(), wait).await?;
        if called.exit_code == NO_SCRIPT {
            self.place_script(vm_id).await?;
            called = self.run_process(vm_id, "root", process, wait).await?;
        }
        match called.exit_code {
            0 | NO_RUN => Ok(called),
            REFUSED => Err(VmError::Refused(String::from_utf8_lossy(&called.stderr).trim().to_owned())),
            OTHER_RUN => Err(VmError::Refused("A run with this id runs something else.".to_owned())),
            code => {
                let said = String::from_utf8_lossy(&called.stderr).into_owned();
                Err(VmError::Unavailable(anyhow::anyhow!(
                    "the run journal ended with {code}: {}",
                    said.trim()
                )))
            }
        }
    }

    /// Puts the script into the VM under its own name in one step: another caller may be about to run it.
    async fn place_script(&self, vm_id: &str) -> Result<(), VmError> {
        let new = format!("{}.{:016x}", *PLACE, rand::random::<u64>());
        self.write_file(vm_id, &new, "root", Bytes::from_static(SCRIPT.as_bytes())).await?;
        let process = ProcessConfig {
            cmd: "/bin/mv".to_owned(),
            args: vec!["-f".to_owned(), new, PLACE.clone()],
            cwd: Some("/".to_owned()),
            ..ProcessConfig::default()
        };
        let moved = self.run_process(vm_id, "root", process, Duration::ZERO).await?;
        if moved.exit_code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&moved.stderr).into_owned();
        Err(VmError::Refused(format!("The run journal cannot be put into the VM: {}", said.trim())))
    }

    pub(crate) async fn start_by_script(
        &self,
        vm_id: &str,
        spec: &RunSpec,
        start: &StartRun,
        wait: Duration,
    ) -> Result<RunReport, VmError> {
        checked(&spec.run_id)?;
        let stdin = match &spec.stdin {
            None => "-".to_owned(),
            Some(text) => {
                // Each call brings its own copy; the one that claims the run takes it over, the others remove theirs.
                let place = format!("/var/lib/pvm/stdin-{}-{:016x}", spec.run_id, rand::random::<u64>());
                self.write_file(vm_id, &place, "root", Bytes::copy_from_slice(text.as_bytes())).await?;
                place
            }
        };
        let mut arguments = vec![
            "start".to_owned(),
            spec.run_id.clone(),
            spec.user.clone(),
            spec.working_dir.clone(),
            spec.timeout_secs.unwrap_or(0).to_string(),
            hundredths(wait).to_string(),
            limits::OUTPUT_INLINE_BYTES.to_string(),
            start.spec_sha256(&spec.user),
            stdin,
        ];
        arguments.extend(spec.env.iter().map(|(name, value)| format!("{name}={value}")));
        arguments.push(start.process.cmd.clone());
        arguments.extend(start.process.args.iter().cloned());
        let called = self.call_script(vm_id, arguments, wait).await?;
        report(called)
    }

    pub(crate) async fn read_by_script(
        &self,
        vm_id: &str,
        run_id: &str,
        from: ReadFrom,
    ) -> Result<Option<RunReport>, VmError> {
        checked(run_id)?;
        let arguments = vec![
            "read".to_owned(),
            run_id.to_owned(),
            from.stdout.min(OFFSET_MOST).to_string(),
            from.stderr.min(OFFSET_MOST).to_string(),
            from.limit.min(MAX_READ_LIMIT).to_string(),
            hundredths(from.wait).to_string(),
        ];
        let called = self.call_script(vm_id, arguments, from.wait).await?;
        if called.exit_code == NO_RUN {
            return Ok(None);
        }
        report(called).map(Some)
    }

    pub(crate) async fn kill_by_script(&self, vm_id: &str, run_id: &str) -> Result<(), VmError> {
        checked(run_id)?;
        self.call_script(vm_id, vec!["kill".to_owned(), run_id.to_owned()], Duration::ZERO).await.map(|_| ())
    }

    /// Identity of the present boot: the kernel's, and the start of the first process, which changes where a VM is
    /// started again from its files under the same kernel.
    pub(crate) async fn boot_id_by_script(&self, vm_id: &str) -> Result<String, VmError> {
        let line = "cat /proc/sys/kernel/random/boot_id && s=$(cat /proc/1/stat) && set -- ${s##*) } && shift 19 && echo $1";
        let process = ProcessConfig {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), line.to_owned()],
            cwd: Some("/".to_owned()),
            ..ProcessConfig::default()
        };
        let told = self.run_process(vm_id, "root", process, Duration::ZERO).await?;
        let text = String::from_utf8_lossy(&told.stdout);
        let parts: Vec<&str> = text.split_whitespace().collect();
        match parts.as_slice() {
            [kernel, first] => Ok(format!("{kernel}-{first}")),
            _ => Err(VmError::Refused("The VM does not tell its boot id.".to_owned())),
        }
    }
}

/// Reads what the script tells: a line of facts and the output.
fn report(called: Finished) -> Result<RunReport, VmError> {
    let garbled = || VmError::Unavailable(anyhow::anyhow!("the run journal's answer cannot be read"));
    let end = called.stdout.iter().position(|byte| *byte == b'\n').ok_or_else(garbled)?;
    let line = std::str::from_utf8(&called.stdout[..end]).map_err(|_| garbled())?;
    let words: Vec<&str> = line.split(' ').collect();
    let ["pvm-journal-1", state, code, duration, facts @ ..] = words.as_slice() else {
        return Err(garbled());
    };
    let facts: Vec<u64> =
        facts.iter().map(|fact| fact.parse().map_err(|_| garbled())).collect::<Result<_, _>>()?;
    let [out_from, out_length, out_total, out_dropped, err_from, err_length, err_total, err_dropped] =
        facts[..]
    else {
        return Err(garbled());
    };
    let state = match *state {
        "running" => RunState::Running,
        "exited" => RunState::Exited,
        "timed_out" => RunState::TimedOut,
        "killed" => RunState::Killed,
        "lost" => RunState::Lost,
        _ => return Err(garbled()),
    };
    let data = called.stdout.slice(end + 1..);
    if data.len() as u64 > out_length || called.stderr.len() as u64 > err_length {
        return Err(garbled());
    }
    let exit_code = (state == RunState::Exited).then(|| code.parse().ok()).flatten();
    Ok(RunReport {
        state,
        exit_code,
        signal: matches!(state, RunState::TimedOut | RunState::Killed).then_some(runs::SIGKILL),
        duration_ms: duration.parse().unwrap_or(0),
        stdout: chunk(data, out_from, out_total, out_dropped),
        stderr: chunk(called.stderr, err_from, err_total, err_dropped),
    })
}

fn chunk(data: Bytes, offset: u64, total: u64, dropped: u64) -> Chunk {
    Chunk { next: offset + data.len() as u64, offset, total, dropped, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stdout: &'static str, stderr: &'static str) -> Result<RunReport, VmError> {
        let (stdout, stderr) = (Bytes::from_static(stdout.as_bytes()), Bytes::from_static(stderr.as_bytes()));
        report(Finished { exit_code: 0, stdout, stderr })
    }

    #[test]
    fn the_line_of_facts_is_read() {
        let report = told("pvm-journal-1 exited 3 40 0 6 6 0 0 2 9 7\nhello\n", "no").unwrap();
        assert_eq!((report.state, report.exit_code, report.duration_ms), (RunState::Exited, Some(3), 40));
        assert_eq!((report.stdout.data.as_ref(), report.stdout.next), (&b"hello\n"[..], 6));
        assert_eq!((report.stderr.next, report.stderr.total, report.stderr.dropped), (2, 9, 7));
        let killed = told("pvm-journal-1 killed 137 40 0 0 0 0 0 0 0 0\n", "").unwrap();
        assert_eq!((killed.exit_code, killed.signal), (None, Some(9)));
    }

    #[test]
    fn what_the_script_did_not_say_is_not_taken_for_an_answer() {
        for bad in
            ["", "pvm-journal-1 exited 0 1 0 0 0 0\n", "pvm-journal-1 done 0 1 0 0 0 0 0 0 0 0\n", "hello\n"]
        {
            assert!(matches!(told(bad, ""), Err(VmError::Unavailable(_))), "{bad:?}");
        }
    }
}
