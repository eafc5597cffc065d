//! A server that a plain user runs: the weaker ways of keeping sandboxes apart.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use crate::killed::Program;
use crate::lab::Lab;

/// A user that nobody on this machine is.
const SOMEBODY: u32 = 64_001;

/// Starts the program as a plain user with everything in one folder.
fn start(folder: &Path, more_path: Option<&Path>) -> Program {
    let (state, home) = (folder.join("state"), folder.join("home"));
    std::fs::create_dir_all(&home).unwrap();
    for path in [folder, home.as_path()] {
        std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let mut path = OsString::new();
    if let Some(more) = more_path {
        path.push(more);
        path.push(":");
    }
    path.push("/usr/bin:/bin");
    let setpriv = ["setpriv", "--reuid", "64001", "--regid", "64001", "--clear-groups"];
    let templates = folder.join("templates");
    Program::start_as(&setpriv, &state, |command| {
        command.arg("--templates").arg(&templates).env("HOME", &home).env("PATH", &path);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_user_without_anything_runs_sandboxes_with_a_single_id() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = start(folder.path(), None);
    let lab = Lab::at(program.address);
    let sandbox = lab.create().await;
    let other = lab.create().await;
    assert_eq!(lab.sh(&sandbox, "echo hello > /workspace/f; cat /workspace/f").await.ok(), "hello");
    // One id inside, and the kernel says yes to what cannot be.
    let seen = lab.sh(&sandbox, "cat /proc/self/uid_map | tr -s ' '; touch x && chown 5:5 x && echo changed; mkfifo p && test -p p && echo fifo").await;
    assert_eq!(seen.stdout, format!(" 0 {SOMEBODY} 1\nchanged\nfifo\n"), "{seen:?}");
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
    assert_eq!(lab.sh(&copy, "cat /workspace/f").await.ok(), "hello");
    lab.must(204, "POST", &format!("{path}/pause"), json!({"memory": false})).await;
    lab.must(201, "POST", &format!("{path}/resume"), json!({"timeout": 60})).await;
    assert_eq!(lab.sh(&sandbox, "cat /workspace/f").await.ok(), "hello");
    let metrics = lab.must(200, "GET", &format!("{path}/metrics"), Value::Null).await.json();
    assert!(metrics[0]["memUsed"].as_u64().unwrap() > 0, "{metrics}");
    // A killed server is survived here as well.
    program.kill();
    let program = start(folder.path(), None);
    let lab = Lab::at(program.address);
    assert_eq!(lab.sh(&sandbox, "cat /workspace/f").await.ok(), "hello");
    for sandbox in [&sandbox, &other, &copy] {
        lab.kill(sandbox).await;
    }
    let left = std::fs::read_dir(folder.path().join("state/sandboxes")).unwrap().count();
    assert_eq!(left, 0);
    crate::killed::end(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_of_a_plain_users_sandbox_stays_inside() {
    let folder = tempfile::tempdir().unwrap();
    let program = start(folder.path(), None);
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
