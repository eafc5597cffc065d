//! Using too much: processes, memory, disk; and what is left behind after many sandboxes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_inside() {
    let lab = Lab::with(|config| config.limits.pids = 100).await;
    let sandbox = lab.create().await;
    // Counted by the program itself: a shell would need room for the programs that count.
    let bomb = r"
import os, signal
children, refused = [], 0
try:
    for _ in range(300):
        child = os.fork()
        if child == 0: signal.pause()
        children.append(child)
except OSError as error: refused = error.errno
print(refused, len(children), len([name for name in os.listdir('/proc') if name.isdigit()]))
for child in children: os.kill(child, 9)
";
    let seen = lab.python(&sandbox, bomb).await;
    let numbers: Vec<i32> = seen.ok().split(' ').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[0], rustix::io::Errno::AGAIN.raw_os_error(), "{seen:?}");
    assert!((50..=100).contains(&numbers[1]) && numbers[2] <= 110, "{seen:?}");
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
    let output = tokio::time::timeout(Duration::from_mins(1), lab.events(response)).await.unwrap();
    assert_ne!(output.exit, Some(0));
    let upload = lab.envd(&sandbox, http::Method::POST, "/files?path=/tmp/more", "x").await;
    assert_eq!(upload.status, 507, "{}", upload.text());
    // A large one as well, also to a client that sends all of it first; and files can be removed the SDKs' way.
    let large = vec![b'x'; 8 << 20];
    let upload = lab.envd(&sandbox, http::Method::POST, "/files?path=/tmp/more", large).await;
    assert_eq!(upload.status, 507, "{}", upload.text());
    let remove = "/filesystem.Filesystem/Remove";
    let mut request = Lab::request(&sandbox, 49983, http::Method::POST, remove, r#"{"path": "/tmp/f1"}"#);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let removed = lab.send(request).await;
    assert_eq!(removed.status, 200, "{}", removed.text());
    eventually("files can be written again", async || {
        lab.sh(&sandbox, "rm -f /tmp/f*").await;
        let mut request = Lab::request(&sandbox, 49983, http::Method::POST, "/files?path=/tmp/more", "x");
        request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
        lab.send(request).await.status == 200
    })
    .await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filler_whose_files_have_no_names_is_ended() {
    let lab = Lab::with(|config| config.limits.disk_mb = 64).await;
    let sandbox = lab.create().await;
    // No file is larger than the limit, and none can be found. It would go on for half a minute and end well.
    let filler = r"
import os, time
held, block, end = [], bytes(8 << 20), time.time() + 30
while time.time() < end:
    if len(held) < 8:
        file = open('/tmp/hidden', 'wb')
        os.unlink('/tmp/hidden')
        for _ in range(4): file.write(block)
        held.append(file)
    os.pwrite(held[0].fileno(), b'x' * 65536, 0)
    time.sleep(0.05)
";
    let output = lab.python(&sandbox, filler).await;
    assert_ne!(output.exit, Some(0), "{output:?}");
    assert!(!output.stderr.contains("Traceback"), "{output:?}");
    assert_eq!(lab.sh(&sandbox, "echo fine").await.ok(), "fine");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_of_the_disk_is_told_by_both_interfaces() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    lab.sh(&sandbox, "head -c 20M /dev/urandom > /workspace/large; cat /workspace/large > /dev/null")
        .await
        .ok();
    let inside = lab.envd(&sandbox, http::Method::GET, "/metrics", "").await.json();
    assert!(inside["disk_used"].as_u64().unwrap() >= 20 << 20, "{inside}");
    assert!(inside["mem_cache"].as_u64().unwrap() > 0, "{inside}");
    assert!(inside["cpu_count"].as_u64().unwrap() > 0, "{inside}");
    let path = format!("/sandboxes/{}/metrics", sandbox.sandbox_id);
    let outside = lab.must(200, "GET", &path, Value::Null).await.json();
    let latest = outside.as_array().unwrap().last().unwrap();
    assert!(latest["diskUsed"].as_u64().unwrap() >= 20 << 20, "{outside}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sandboxes_are_measured_side_by_side() {
    const COUNT: u32 = 30;
    let lab = Lab::start().await;
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        ids.push(lab.create().await.sandbox_id);
    }
    let before = std::time::Instant::now();
    let path = format!("/sandboxes/metrics?sandbox_ids={}", ids.join(","));
    let metrics = lab.must(200, "GET", &path, Value::Null).await.json();
    assert_eq!(metrics["sandboxes"].as_object().unwrap().len(), COUNT as usize);
    // A first sample takes a tenth of a second, so that one after the other would take this long whatever the machine.
    assert!(before.elapsed() < Duration::from_millis(100) * COUNT, "{:?}", before.elapsed());
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
async fn a_flood_of_files_is_ended() {
    let lab = Lab::with(|config| config.limits.disk_mb = 256).await;
    let sandbox = lab.create().await;
    let free = || rustix::fs::statvfs(lab.state()).unwrap().f_ffree;
    let before = free();
    let flood = "mkdir -p /tmp/flood; exec /usr/bin/python3 -c '\nimport os\ni = 0\nwhile True:\n i += 1\n open(f\"/tmp/flood/{i}\", \"w\").close()\n'";
    let response = lab.start_process(&sandbox, "user", flood).await;
    let output = tokio::time::timeout(Duration::from_mins(2), lab.events(response)).await.unwrap();
    assert_ne!(output.exit, Some(0), "{output:?}");
    assert!(before.saturating_sub(free()) < 4 << 20, "the machine has files left");
    let other = lab.create().await;
    assert_eq!(lab.sh(&other, "touch /tmp/x && echo fine").await.ok(), "fine");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_descriptors_stays_inside() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let flood = "exec /usr/bin/python3 -c 'import os, resource\n\
                 held = []\n\
                 try:\n    while True: held.append(os.dup(0))\n\
                 except OSError as error: print(error.errno, len(held) <= 65536)'";
    let seen = lab.sh(&sandbox, flood).await;
    assert_eq!(seen.stdout, "24 True\n", "{seen:?}");
    let raised =
        lab.sh_as(&sandbox, "root", "ulimit -Hn 1000000 2>/dev/null && echo raised; ulimit -Hn").await;
    // The machine's own limit may be lower.
    let limit: u32 = raised.ok().parse().unwrap();
    assert!(limit <= 65_536, "{raised:?}");
    // Sockets count as descriptors, and a listener for each port there is does not hurt the others either.
    let other = lab.create().await;
    assert_eq!(lab.sh(&other, "echo fine").await.ok(), "fine");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sandboxes_leave_nothing_behind() {
    leaves_nothing_behind(50).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: three thousand sandboxes"]
async fn thousands_of_sandboxes_leave_nothing_behind() {
    leaves_nothing_behind(3000).await;
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

async fn leaves_nothing_behind(rounds: usize) {
    let lab = Lab::start().await;
    let instance: String =
        serde_json::from_slice(&std::fs::read(lab.state().join("instance")).unwrap()).unwrap();
    let state = lab.state().canonicalize().unwrap();
    let before = descriptors_into(&state);
    let disk = |folder: &std::path::Path| {
        let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum::<u64>()
    };
    for round in 0..rounds {
        let sandbox = lab.create().await;
        lab.sh(&sandbox, "echo x > /tmp/x; sleep 100 & true").await.ok();
        // Each way to end: killed while it runs, frozen, and with its files only.
        match round % 10 {
            0 => drop(
                lab.must(204, "POST", &format!("/sandboxes/{}/pause", sandbox.sandbox_id), Value::Null).await,
            ),
            1 => {
                let body = json!({"memory": false});
                lab.must(204, "POST", &format!("/sandboxes/{}/pause", sandbox.sandbox_id), body).await;
            }
            _ => {}
        }
        let path = format!("/sandboxes/{}", sandbox.sandbox_id);
        match round % 10 {
            2 => {
                let snapshot = lab.must(201, "POST", &format!("{path}/snapshots"), Value::Null).await.json();
                let id = snapshot["snapshotID"].as_str().unwrap();
                let copy = lab.create_with(json!({"templateID": id})).await;
                // The copy's kill comes after that of its template, which is the other way round than below.
                lab.must(204, "DELETE", &format!("/templates/{id}"), Value::Null).await;
                lab.kill(&copy).await;
            }
            3 => {
                let forks = lab.must(201, "POST", &format!("{path}/fork"), json!({"count": 2})).await.json();
                for fork in forks.as_array().unwrap() {
                    let id = fork["sandbox"]["sandboxID"].as_str().unwrap();
                    lab.must(204, "DELETE", &format!("/sandboxes/{id}"), Value::Null).await;
                }
            }
            4 => {
                let name = format!("leak-{round}");
                let steps = json!([{"type": "RUN", "args": ["echo y > /srv/y", "root"]}]);
                let (template, status) =
                    crate::builds::build(&lab, &name, json!({"fromTemplate": "host", "steps": steps})).await;
                assert_eq!(status["status"], "ready", "{status}");
                let made = lab.create_with(json!({"templateID": name})).await;
                lab.kill(&made).await;
                lab.must(204, "DELETE", &format!("/templates/{template}"), Value::Null).await;
            }
            _ => {}
        }
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
    let count = |folder: &str| std::fs::read_dir(state.join(folder)).unwrap().count();
    eventually("layers that nothing is made of are gone", async || count("layers") == 0).await;
    eventually("removed folders are gone", async || count("trash") == 0).await;
    assert_eq!(count("templates"), 0);
    eventually("descriptors are closed", async || descriptors_into(&state) <= before).await;
    // Tests run beside each other in this process; each has a few threads of its own, none per sandbox.
    assert!(threads() < 400, "{}", threads());
    assert!(disk(&state) < 8 << 20, "{} bytes are left", disk(&state));
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
