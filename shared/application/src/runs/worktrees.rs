//! The copies of the workspace that the lanes of a parallel run work in: made and merged by a script in the VM, and what
//! is told of the merge.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_domain::conversation::{OutcomeKind, Run};
use pvm_domain::file::WORKSPACE;

use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{RunCommands, RunReport, RunSpec, RunState};
use crate::vm::ReadyVm;

/// Makes copies of the workspace and merges them.
const SCRIPT: &str = include_str!("lanes.sh");
/// The VM and one script may take this long within one entry of the step.
pub(super) const WITHIN: Duration = Duration::from_secs(25);
/// A script is killed after this many seconds: a workspace of some gigabytes is copied in that time.
const SCRIPT_SECS: u64 = 600;

/// Where the lanes of a run are in the VM: in the home of `user`, who must be able to write there on every server.
pub(super) fn directory(run: &Run) -> String {
    format!("/home/user/.local/state/pvm/lanes/{}", run.run_id)
}

/// Runs the script once per action and VM, and answers its output.
///
/// # Errors
/// Of the VM; `unavailable` while it works.
pub(super) async fn script(
    vm: &impl RunCommands,
    run: &Run,
    ready: &ReadyVm,
    action: &str,
    dir: &str,
    names: &[String],
) -> AppResult<String> {
    // Names of agents are [a-z0-9_-]: nothing of them needs quoting.
    let spec = RunSpec {
        run_id: format!("{}-{action}-{}", run.run_id, ready.epoch),
        command: format!("bash -s -- {action} {dir} {WORKSPACE} {}", names.join(" ")),
        working_dir: "/".to_owned(),
        env: BTreeMap::new(),
        stdin: Some(SCRIPT.to_owned()),
        user: "user".to_owned(),
        timeout_secs: Some(SCRIPT_SECS),
    };
    let report: RunReport = vm.start_run(&ready.vm_id, &spec, WITHIN).await?;
    let text = String::from_utf8_lossy(&report.stdout.data).into_owned();
    match (report.state, report.exit_code) {
        (RunState::Exited, Some(0)) => Ok(text),
        (RunState::Running, _) => {
            Err(AppError::new(ErrorCode::Unavailable, "The workspace's copies are still being worked on."))
        }
        _ => {
            let why = String::from_utf8_lossy(&report.stderr.data).into_owned();
            let why = pvm_domain::text::head_and_tail(why.trim(), 1000).0;
            let detail = format!("The workspace could not be copied for parallel work: {why}");
            Err(AppError::new(ErrorCode::VmFailed, detail))
        }
    }
}

/// What is told of a merge.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// For everybody.
    pub(super) text: String,
    /// Agent and path.
    pub(super) conflicts: Vec<(String, String)>,
}

/// Reads the script's output.
pub(super) fn report(agents: &[String], lanes: &BTreeMap<String, Run>, output: &str) -> Told {
    let words = |line: &str, word: &str| {
        let rest = line.strip_prefix(word)?.strip_prefix(' ')?;
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((name.to_owned(), rest.to_owned()))
    };
    let of = |word: &str| output.lines().filter_map(|line| words(line, word)).collect::<Vec<_>>();
    let (merged, lost, conflicts, ignored) = (of("MERGED"), of("LOST"), of("CONFLICT"), of("IGNORED"));
    let mut text = vec!["The work of all agents was merged into the workspace, in this order:".to_owned()];
    for agent in agents {
        let ended = lanes.get(agent).and_then(|lane| lane.outcome.as_ref());
        let how = match ended.filter(|outcome| outcome.kind != OutcomeKind::Completed) {
            Some(outcome) => {
                format!(" (ended early: {})", outcome.detail.as_deref().unwrap_or("no reason is known"))
            }
            None => String::new(),
        };
        let what = match merged.iter().find(|(name, _)| name == agent) {
            Some((_, count)) => format!("{} changed files", count.trim()),
            None if lost.iter().any(|(name, _)| name == agent) => "lost with the machine".to_owned(),
            None => "nothing".to_owned(),
        };
        text.push(format!("- {agent}: {what}{how}"));
        let left: Vec<&str> =
            ignored.iter().filter(|(name, _)| name == agent).map(|(_, path)| path.as_str()).collect();
        if !left.is_empty() {
            let place = lanes.get(agent).and_then(|run| run.lane.as_ref());
            let place = place.map_or("its copy", |lane| lane.worktree.as_str());
            let left = left.join(", ");
            text.push(format!("  Not merged, because .gitignore names them, but still in {place}: {left}"));
        }
    }
    for (agent, path) in &conflicts {
        text.push(format!(
            "Conflict: {path} was changed by {agent} and before; its version is {path}.{agent}"
        ));
    }
    Told { text: text.join("\n"), conflicts }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn run_script(action: &str, dir: &Path, workspace: &Path, names: &[&str]) -> String {
        let mut command = Command::new("bash");
        command.arg("-s").arg("--").arg(action).arg(dir).arg(workspace).args(names);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), SCRIPT.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn lanes_are_merged_in_order_and_both_versions_of_a_conflict_stay() {
        let home = tempfile::tempdir().unwrap();
        let (workspace, dir) = (home.path().join("workspace"), home.path().join("lanes/run"));
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = |path: &str| std::fs::read_to_string(home.path().join(path)).ok();
        write("workspace/app.py", "one\ntwo\n");
        write("workspace/old.txt", "old\n");
        write("workspace/.git/HEAD", "not ours\n");
        run_script("make", &dir, &workspace, &["dev", "design"]);
        run_script("make", &dir, &workspace, &["dev", "design"]);
        assert_eq!(read("lanes/run/dev/app.py").as_deref(), Some("one\ntwo\n"));
        write("lanes/run/dev/app.py", "one\ntwo by dev\n");
        write("lanes/run/dev/new dir/dev file.txt", "dev\n");
        std::fs::remove_file(dir.join("dev/old.txt")).unwrap();
        write("lanes/run/design/app.py", "one\ntwo by design\n");
        write("lanes/run/design/style.css", "a {}\n");
        write("workspace/meanwhile.txt", "user\n");
        let output = run_script("merge", &dir, &workspace, &["dev", "design"]);
        assert_eq!(output, "MERGED dev 3\nCONFLICT design app.py\nMERGED design 2\n");
        assert_eq!(read("workspace/app.py").as_deref(), Some("one\ntwo by dev\n"));
        assert_eq!(read("workspace/app.py.design").as_deref(), Some("one\ntwo by design\n"));
        assert_eq!(read("workspace/new dir/dev file.txt").as_deref(), Some("dev\n"));
        assert_eq!(read("workspace/style.css").as_deref(), Some("a {}\n"));
        assert_eq!(read("workspace/meanwhile.txt").as_deref(), Some("user\n"));
        assert_eq!(read("workspace/old.txt"), None);
        assert_eq!(read("workspace/.git/HEAD").as_deref(), Some("not ours\n"));
        assert!(!dir.exists(), "what is merged is removed");
        // As in a machine that was made anew.
        let output = run_script("merge", &dir, &workspace, &["dev", "design"]);
        assert_eq!(output, "LOST dev\nLOST design\n");
    }

    fn git(dir: &Path, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"]);
        let status = command.args(arguments).current_dir(dir).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    }

    /// A repository at `dir` with one commit.
    fn repository(dir: &Path, file: &str) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(file), "first\n").unwrap();
        git(dir, &["init", "-q"]);
        git(dir, &["add", "-A"]);
        git(dir, &["commit", "-q", "-m", "first"]);
    }

    #[test]
    fn repositories_inside_of_the_workspace_are_copied_with_their_files_and_merged() {
        let home = tempfile::tempdir().unwrap();
        let (workspace, dir) = (home.path().join("workspace"), home.path().join("lanes/run"));
        repository(&workspace.join("app"), "main.py");
        repository(&workspace.join("app/deep/vendor"), "lib.py");
        run_script("make", &dir, &workspace, &["dev"]);
        let lane = dir.join("dev");
        assert_eq!(std::fs::read_to_string(lane.join("app/deep/vendor/lib.py")).unwrap(), "first\n");
        std::fs::write(lane.join("app/main.py"), "by dev\n").unwrap();
        std::fs::write(lane.join("app/deep/vendor/new.py"), "by dev\n").unwrap();
        repository(&lane.join("cloned"), "theirs.py");
        repository(&workspace.join("meanwhile"), "ours.py");
        assert_eq!(run_script("merge", &dir, &workspace, &["dev"]), "MERGED dev 3\n");
        let read = |path: &str| std::fs::read_to_string(workspace.join(path)).unwrap();
        assert_eq!(read("app/main.py"), "by dev\n");
        assert_eq!(read("app/deep/vendor/new.py"), "by dev\n");
        assert_eq!(
            (read("cloned/theirs.py"), read("meanwhile/ours.py")),
            ("first\n".into(), "first\n".into())
        );
        // Each is still a repository of its own.
        for inner in ["app", "app/deep/vendor", "cloned", "meanwhile"] {
            git(&workspace.join(inner), &["rev-parse", "-q", "--verify", "HEAD"]);
            assert!(workspace.join(inner).join(".git").exists(), "{inner}");
        }
    }

    #[test]
    fn what_is_ignored_stays_in_the_lane_and_is_told() {
        let home = tempfile::tempdir().unwrap();
        let (workspace, dir) = (home.path().join("workspace"), home.path().join("lanes/run"));
        std::fs::create_dir_all(&workspace).unwrap();
        std::fs::write(workspace.join(".gitignore"), "node_modules/\n.env\n").unwrap();
        run_script("make", &dir, &workspace, &["dev", "design"]);
        std::fs::create_dir_all(dir.join("dev/node_modules/x")).unwrap();
        std::fs::write(dir.join("dev/node_modules/x/index.js"), "").unwrap();
        std::fs::write(dir.join("dev/.env"), "KEY=1").unwrap();
        let output = run_script("merge", &dir, &workspace, &["dev", "design"]);
        assert_eq!(output, "MERGED dev 0\nIGNORED dev .env\nIGNORED dev node_modules/\nMERGED design 0\n");
        assert!(dir.join("dev/.env").exists() && !dir.join("design").exists());
        let told = report(&["dev".to_owned(), "design".to_owned()], &BTreeMap::new(), &output);
        assert!(told.text.contains("still in its copy: .env, node_modules/"), "{}", told.text);
    }

    #[test]
    fn the_report_tells_what_was_merged_and_what_collided() {
        let agents = ["dev".to_owned(), "design".to_owned()];
        let told =
            report(&agents, &BTreeMap::new(), "MERGED dev 3\nCONFLICT design a b.py\nMERGED design 2\n");
        assert_eq!(told.conflicts, [("design".to_owned(), "a b.py".to_owned())]);
        assert!(told.text.contains("- dev: 3 changed files") && told.text.contains("a b.py.design"));
    }
}
