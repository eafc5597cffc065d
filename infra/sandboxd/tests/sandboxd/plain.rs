//! A server that a plain user runs: the weaker ways of keeping sandboxes apart.

use std::path::Path;

use serde_json::{Value, json};

use crate::killed::Program;
use crate::lab::{self, Lab};

/// A user that nobody on this machine is.
const SOMEBODY: u32 = 64_001;

/// Starts the program as a plain user with everything in one folder; `before` stands in front of it.
fn start_by(before: &[&str], folder: &Path) -> Program {
    let (state, home) = (folder.join("state"), folder.join("home"));
    std::fs::create_dir_all(&home).unwrap();
    for path in [folder, home.as_path()] {
        std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let setpriv =
        ["setpriv", "--pdeathsig", "KILL", "--reuid", "64001", "--regid", "64001", "--clear-groups"];
    let templates = folder.join("templates");
    Program::start_as(&[before, &setpriv].concat(), &state, |command| {
        command.arg("--templates").arg(&templates).env("HOME", &home).env("PATH", "/usr/sbin:/usr/bin:/bin");
    })
}

fn start(folder: &Path) -> Program {
    start_by(&[], folder)
}

/// Shows the program files of its own for the first three arguments, in a mount namespace that nobody else sees.
const WITH_OWN_FILES: &str = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/subuid && \
                              mount --bind \"$3\" /etc/subgid && shift 3 && exec \"$@\"";
/// The subordinate ids that the user has then.
const SUBORDINATE: u32 = 300_000;

/// The same as [`start`] on a machine where the user has 65,536 subordinate ids.
fn start_with_ids(folder: &Path) -> Program {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let files = [
        ("passwd", format!("{passwd}pvmtest:x:{SOMEBODY}:{SOMEBODY}::/nonexistent:/bin/sh\n")),
        ("subuid", format!("pvmtest:{SUBORDINATE}:65536\n")),
        ("subgid", format!("pvmtest:{SUBORDINATE}:65536\n")),
    ]
    .map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let mut before = vec!["unshare", "--mount", "--propagation", "private", "sh", "-c", WITH_OWN_FILES, "sh"];
    before.extend(files.iter().map(String::as_str));
    start_by(&before, folder)
}

/// What a sandbox of any plain user does, from its start to its end, a killed server between.
async fn lives_a_whole_life(folder: &Path, start: fn(&Path) -> Program, id_map: &str, owner: &str) {
    let mut program = start(folder);
    let lab = Lab::at(program.address);
    let sandbox = lab.create().await;
    let other = lab.create().await;
    assert_eq!(lab.sh(&sandbox, "echo hello > /workspace/f; cat /workspace/f").await.ok(), "hello");
    let seen = lab
        .sh_as(
            &sandbox,
            "root",
            "cat /proc/self/uid_map | tr -s ' '; cd /tmp; touch x && chown 5:5 x && stat -c %u:%g x; mkfifo p && test -p p && echo fifo",
        )
        .await;
    assert_eq!(seen.stdout, format!("{id_map}{owner}\nfifo\n"), "{seen:?}");
    // Kept apart all the same.
    let attempts = "ls /proc | grep -cE '^[0-9]+$' | (read n; [ $n -lt 20 ] && echo few); ls /sys/class/net; \
                    ls /root/.ssh /home/*/.ssh 2>/dev/null | wc -l; unshare -U true 2>/dev/null || echo no-namespaces; \
                    mount -t tmpfs x /mnt 2>/dev/null || echo no-mounts";
    let seen = lab.sh_as(&sandbox, "root", attempts).await;
    assert_eq!(seen.stdout, "few\nlo\n0\nno-namespaces\nno-mounts\n", "{seen:?}");
    lab.sh(&sandbox, "echo mine > /tmp/mine").await.ok();
    assert_eq!(lab.sh(&other, "ls /tmp/mine 2>/dev/null; echo done").await.ok(), "done");
    // Paused in memory and with the files only, snapshots, forks.
    let path = format!("/sandboxes/{}", sandbox.sandbox_id);
    let pid = lab
        .spawn(&sandbox, "user", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done")
        .await;
    lab.must(204, "POST", &format!("{path}/pause"), Value::Null).await;
    lab.must(201, "POST", &format!("/v2{path}/connect"), json!({"timeout": 60})).await;
    lab.sh(&sandbox, &format!("kill -0 {pid}")).await.ok();
    let snapshot = lab.must(201, "POST", &format!("{path}/snapshots"), json!({})).await.json();
    let copy = lab.create_with(json!({"templateID": snapshot["snapshotID"]})).await;
    assert_eq!(
        lab.sh_as(&copy, "root", "cat /workspace/f; stat -c %u:%g /tmp/x").await.ok(),
        format!("hello\n{owner}")
    );
    lab.must(204, "POST", &format!("{path}/pause"), json!({"memory": false})).await;
    lab.must(201, "POST", &format!("{path}/resume"), json!({"timeout": 60})).await;
    assert_eq!(lab.sh(&sandbox, "cat /workspace/f").await.ok(), "hello");
    let metrics = lab.must(200, "GET", &format!("{path}/metrics"), Value::Null).await.json();
    assert!(metrics[0]["memUsed"].as_u64().unwrap() > 0, "{metrics}");
    // A killed server is survived here as well.
    program.kill();
    let program = start(folder);
    let lab = Lab::at(program.address);
    assert_eq!(lab.sh(&sandbox, "cat /workspace/f").await.ok(), "hello");
    for sandbox in [&sandbox, &other, &copy] {
        lab.kill(sandbox).await;
    }
    let left = std::fs::read_dir(folder.join("state/sandboxes")).unwrap().count();
    assert_eq!(left, 0);
    crate::killed::end(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_user_without_anything_runs_sandboxes_with_a_single_id() {
    let folder = lab::folder().await;
    // One id inside, and the kernel says yes to what cannot be.
    lives_a_whole_life(folder.path(), start, &format!(" 0 {SOMEBODY} 1\n"), "0:0").await;
}

/// Needs `newuidmap`, which `scripts/prepare-tests.sh` installs.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_user_with_subordinate_ids_runs_sandboxes_with_real_users() {
    let folder = lab::folder().await;
    let map = format!(" 0 {SOMEBODY} 1\n 1 {SUBORDINATE} 65535\n");
    lives_a_whole_life(folder.path(), start_with_ids, &map, "5:5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_of_a_plain_users_sandbox_stays_inside() {
    let folder = lab::folder().await;
    let program = start(folder.path());
    let lab = Lab::at(program.address);
    let sandbox = lab.create().await;
    let limit: u32 = lab.sh(&sandbox, "ulimit -u").await.ok().parse().unwrap();
    let script = format!(
        "ulimit -u 60; for i in $(seq 200); do sleep 20 & done 2>/dev/null; ls -d /proc/[0-9]* | wc -l; echo of {limit}"
    );
    let seen = lab.sh(&sandbox, &script).await;
    let count: u32 = seen.stdout.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    assert!(count <= 70, "{seen:?}");
    let other = lab.create().await;
    assert_eq!(lab.sh(&other, "echo fine").await.ok(), "fine");
    for sandbox in [&sandbox, &other] {
        lab.kill(sandbox).await;
    }
    crate::killed::end(program);
}
