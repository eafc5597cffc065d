//! Using too much: processes, memory, disk; and what is left behind after many sandboxes.

use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_inside() {
    let lab = Lab::with(|config| config.limits.pids = 100).await;
    let sandbox = lab.create().await;
    let seen = lab
        .sh(&sandbox, "for i in $(seq 300); do sleep 30 & done 2>/dev/null; ls -d /proc/[0-9]* | wc -l")
        .await;
    let count: u32 = seen.stdout.trim().parse().unwrap_or(0);
    assert!(count <= 110, "{seen:?}");
    lab.sh_as(&sandbox, "root", "true").await;
    let other = lab.create().await;
    assert_eq!(lab.sh(&other, "echo fine").await.ok(), "fine");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_is_ended_and_its_sandbox_goes_on() {
    let lab = Lab::with(|config| config.limits.memory_mb = 256).await;
    let sandbox = lab.create().await;
    let seen = lab.sh(&sandbox, "/usr/bin/python3 -c 'x = bytearray(600 << 20); print(len(x))'").await;
    assert_ne!(seen.exit, Some(0), "{seen:?}");
    assert!(!seen.stdout.contains("629145600"));
    assert_eq!(lab.sh(&sandbox, "echo fine").await.ok(), "fine");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_cannot_grow_past_the_disk_limit() {
    let lab = Lab::with(|config| config.limits.disk_mb = 64).await;
    let sandbox = lab.create().await;
    let seen = lab
        .sh(&sandbox, "dd if=/dev/zero of=/tmp/big bs=1M count=200 2>&1 | tail -1; stat -c %s /tmp/big")
        .await;
    let size: u64 = seen.stdout.lines().last().unwrap().parse().unwrap();
    assert!(size <= 64 << 20, "{seen:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filler_is_ended_until_it_makes_room() {
    let lab = Lab::with(|config| config.limits.disk_mb = 64).await;
    let sandbox = lab.create().await;
    let filler = "i=0; while :; do i=$((i+1)); dd if=/dev/zero of=/tmp/f$i bs=1M count=8 status=none; sleep 0.02; done";
    let response = lab.start_process(&sandbox, "user", filler).await;
    // It would never end by itself.
    let output = tokio::time::timeout(Duration::from_secs(60), lab.events(response)).await.unwrap();
    assert_ne!(output.exit, Some(0));
    let upload = lab.envd(&sandbox, http::Method::POST, "/files?path=/tmp/more", "x").await;
    assert_eq!(upload.status, 507, "{}", upload.text());
    eventually("files can be written again", async || {
        lab.sh(&sandbox, "rm -f /tmp/f*").await;
        let mut request = Lab::request(&sandbox, 49983, http::Method::POST, "/files?path=/tmp/more", "x");
        request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
        lab.send(request).await.status == 200
    })
    .await;
    lab.finish().await;
}

/// Descriptors of this process that lead to the lab's state folder.
fn descriptors_into(folder: &std::path::Path) -> usize {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.starts_with(folder))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sandboxes_leave_nothing_behind() {
    let lab = Lab::start().await;
    let instance: String =
        serde_json::from_slice(&std::fs::read(lab.state().join("instance")).unwrap()).unwrap();
    let state = lab.state().canonicalize().unwrap();
    let before = descriptors_into(&state);
    for _ in 0..50 {
        let sandbox = lab.create().await;
        lab.sh(&sandbox, "echo x > /tmp/x; sleep 100 & true").await.ok();
        lab.kill(&sandbox).await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*state.to_string_lossy()));
    // What is there belongs to spare shells, of which there are a few whatever happened.
    let groups = || {
        walkdir::WalkDir::new("/sys/fs/cgroup")
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.path().parent().is_some_and(|parent| parent.ends_with(&instance)))
            .filter(|entry| entry.file_type().is_dir())
            .map(|entry| entry.file_name().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    assert!(groups() <= 16, "{}", groups());
    assert_eq!(std::fs::read_dir(state.join("sandboxes")).unwrap().count(), 0);
    eventually("removed folders are gone", async || {
        std::fs::read_dir(state.join("trash")).unwrap().count() == 0
    })
    .await;
    eventually("descriptors are closed", async || descriptors_into(&state) <= before).await;
    let listed = lab.must(200, "GET", "/v2/sandboxes", Value::Null).await.json();
    assert_eq!(listed, Value::Array(Vec::new()));
    lab.finish().await;
    assert_eq!(groups(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_at_once_all_work() {
    let lab = std::sync::Arc::new(Lab::start().await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let lab = std::sync::Arc::clone(&lab);
        tasks.spawn(async move {
            let sandbox = lab.create().await;
            assert_eq!(lab.sh(&sandbox, &format!("echo {number}")).await.ok(), number.to_string());
            lab.kill(&sandbox).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    std::sync::Arc::into_inner(lab).unwrap().finish().await;
}
