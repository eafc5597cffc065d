//! Folders of tests, which carry the mark of the process that they belong to: a run that was killed leaves sandboxes
//! behind, and the next run removes them. Nothing without such a mark is touched.

use std::path::Path;

use pvm_sandboxd::{Config, Server, Shutdown};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// What the names begin with; the process's id and the time of its start follow.
const MARK: &str = "pvm-lab-";

/// A fresh folder for a test. The first one of a process removes what earlier processes left.
pub(crate) async fn folder() -> TempDir {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    SWEPT.get_or_init(|| sweep(std::env::temp_dir())).await;
    let own = std::process::id();
    let prefix = format!("{MARK}{own}-{}-", started(own).unwrap());
    tempfile::Builder::new().prefix(&prefix).tempdir().unwrap()
}

/// When a process started, in the kernel's ticks; nothing when there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether a folder is a test's whose process is gone.
fn is_left_over(name: &str) -> bool {
    let mut fields = name.strip_prefix(MARK).unwrap_or_default().split('-');
    let mut number = || fields.next()?.parse::<u64>().ok();
    match (number(), number()) {
        (Some(pid), Some(ticks)) => u32::try_from(pid).ok().and_then(started) != Some(ticks),
        _ => false,
    }
}

/// Removes the sandboxes and the folders of processes that are gone.
async fn sweep(parent: impl AsRef<Path>) {
    for entry in std::fs::read_dir(parent).unwrap().flatten() {
        if !is_left_over(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let state = entry.path().join("state");
        if state.join("instance").exists() {
            // A server of the same state folder knows best what belongs to it.
            let mut config = Config::new(&state);
            config.listen.set_port(0);
            // Refused while somebody else sweeps as well, or a program of that test still runs: it stays.
            let Ok(server) = Server::start(config).await else { continue };
            server.shutdown(Shutdown::KillAll).await;
        }
        std::fs::remove_dir_all(entry.path()).ok();
    }
}

#[test]
fn only_marked_folders_of_processes_that_are_gone_are_left_over() {
    let own = std::process::id();
    let ticks = started(own).unwrap();
    assert!(!is_left_over(&format!("{MARK}{own}-{ticks}-abc")), "it is this very process");
    assert!(is_left_over(&format!("{MARK}{own}-{}-abc", ticks - 1)), "the number was given again");
    assert!(is_left_over(&format!("{MARK}4194999-{ticks}-abc")), "no process has this number");
    for other in [".tmpabc", "pvm-lab-", "pvm-lab-x-1-a", "pvm-bench-1-2"] {
        assert!(!is_left_over(other), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_test_left_is_removed_with_its_processes() {
    use crate::killed::Program;
    use crate::lab::{Lab, eventually};

    // Beside the others' folders: the sweep of a parallel run must not come first.
    let parent = folder().await;
    let left = parent.path().join(format!("{MARK}4194999-1-left"));
    std::fs::create_dir(&left).unwrap();
    let kept = parent.path().join("somebody-elses");
    std::fs::create_dir(&kept).unwrap();
    let mut program = Program::start(&left.join("state"));
    let lab = Lab::at(program.address);
    let sandbox = lab.create().await;
    let mark = format!("sleep 61{}", std::process::id());
    lab.spawn(&sandbox, "user", &format!("exec {mark}")).await;
    eventually("it runs", async || is_running(&mark)).await;
    program.kill();
    assert!(is_running(&mark), "sandboxes outlive their server");
    sweep(parent.path()).await;
    eventually("its processes are ended", async || !is_running(&mark)).await;
    assert!(!left.exists() && kept.exists());
}

/// Whether any process of this machine has this command line.
pub(crate) fn is_running(command: &str) -> bool {
    let wanted = command.replace(' ', "\0");
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read_to_string(entry.path().join("cmdline"))
            .is_ok_and(|line| line.trim_end_matches('\0') == wanted)
    })
}
