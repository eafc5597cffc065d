//! Runs: exactly once, with output and end, through either journal.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_application::ports::{
    ConnectVm as _, ReadFrom, RunCommands as _, RunReport, RunSpec, RunState, VmError, VmFiles as _,
};
use pvm_sandbox::VmClient;

use crate::bench::with_bench;

const WAIT: Duration = Duration::from_secs(20);
const NO_WAIT: Duration = Duration::ZERO;

pub(crate) fn spec(run_id: impl Into<String>, command: &str) -> RunSpec {
    RunSpec {
        run_id: run_id.into(),
        command: command.to_owned(),
        working_dir: "/tmp".to_owned(),
        env: BTreeMap::new(),
        stdin: None,
        user: "user".to_owned(),
        timeout_secs: Some(60),
    }
}

fn from(stdout: u64, stderr: u64, wait: Duration) -> ReadFrom {
    ReadFrom { stdout, stderr, limit: 1024 * 1024, wait }
}

fn text(report: &RunReport) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&report.stdout.data), text(&report.stderr.data))
}

/// Reads until the run has ended.
async fn ended(client: &VmClient, vm: &str, run_id: &str) -> RunReport {
    for _ in 0..200 {
        let report = client.read_run(vm, run_id, from(u64::MAX, u64::MAX, Duration::from_millis(200))).await;
        let report = report.unwrap().expect("the journal knows the run");
        if report.state != RunState::Running {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{run_id} does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_its_input_environment_directory_user_output_and_exit_code() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in bench.both() {
            let id = |n: &str| format!("cmd_{name}_{n}");
            let mut run = spec(id("1"), "cat; echo \"$A|$FROM_PROJECT|$HOME|$(id -un)|$PWD\"; echo no >&2; exit 3");
            run.stdin = Some("in ü\n".to_owned());
            run.env = BTreeMap::from([("A".to_owned(), "b \"$c'\n".to_owned())]);
            let report = client.start_run(&vm, &run, WAIT).await.unwrap();
            assert_eq!((report.state, report.exit_code, report.signal), (RunState::Exited, Some(3), None), "{name}");
            let (out, err) = text(&report);
            assert_eq!((out.as_str(), err.as_str()), ("in ü\nb \"$c'\n|yes|/home/user|user|/tmp\n", "no\n"), "{name}");
            assert_eq!((report.stdout.total, report.stdout.next), (out.len() as u64, out.len() as u64));

            let root = RunSpec { user: "root".to_owned(), ..spec(id("2"), "id -un; pwd; cat") };
            let root = RunSpec { working_dir: "/var/lib".to_owned(), ..root };
            assert_eq!(text(&client.start_run(&vm, &root, WAIT).await.unwrap()).0, "root\n/var/lib\n", "{name}");

            let raw = client.start_run(&vm, &spec(id("3"), "printf '\\377\\0\\n'"), WAIT).await.unwrap();
            assert_eq!(raw.stdout.data.as_ref(), b"\xff\0\n", "{name}");

            // Ctrl-C reaches what a shell started, and a session of its own is what it runs in.
            let own = "trap 'echo heard' INT; kill -INT $$; sleep 0.1; [ \"$(ps -o sid= -p $$ | tr -d ' ')\" = $$ ] && echo own";
            assert_eq!(text(&client.start_run(&vm, &spec(id("4"), own), WAIT).await.unwrap()).0, "heard\nown\n", "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_a_run_is_started_it_runs_once() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in bench.both() {
            let run = spec(format!("cmd_{name}"), &format!("echo x >> /tmp/{name}; sleep 0.5; echo done"));
            let starts = (0..8).map(|_| client.start_run(&vm, &run, WAIT));
            for report in futures::future::join_all(starts).await {
                assert_eq!(text(&report.unwrap()).0, "done\n", "{name}");
            }
            let late = client.start_run(&vm, &run, NO_WAIT).await.unwrap();
            assert_eq!((late.state, text(&late).0), (RunState::Exited, "done\n".to_owned()));
            assert_eq!(
                client.read_file(&vm, &format!("/tmp/{name}"), "user", 100).await.unwrap(),
                "x\n",
                "{name}"
            );
            let other = RunSpec { command: "echo other".to_owned(), ..run };
            assert!(matches!(client.start_run(&vm, &other, WAIT).await, Err(VmError::Refused(_))), "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_followed_from_an_offset_and_killed_with_all_its_children() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in bench.both() {
            let id = format!("cmd_{name}");
            assert_eq!(client.read_run(&vm, &id, from(0, 0, NO_WAIT)).await.unwrap(), None, "{name}");
            client.kill_run(&vm, &id).await.unwrap();
            let run = spec(
                &id,
                "echo one; (sleep 300; echo never) & echo $! > /tmp/child; sleep 0.5; echo two; sleep 300",
            );
            let started = client.start_run(&vm, &run, NO_WAIT).await.unwrap();
            assert_eq!(started.state, RunState::Running, "{name}");
            let mut seen = String::new();
            let mut offset = 0;
            while !seen.ends_with("two\n") {
                let report = client.read_run(&vm, &id, from(offset, 0, WAIT)).await.unwrap().unwrap();
                assert_eq!((report.state, report.stdout.offset), (RunState::Running, offset), "{name}");
                seen.push_str(&text(&report).0);
                offset = report.stdout.next;
            }
            assert_eq!(seen, "one\ntwo\n", "{name}");
            client.kill_run(&vm, &id).await.unwrap();
            let end = ended(client, &vm, &id).await;
            assert_eq!((end.state, end.exit_code, end.signal), (RunState::Killed, None, Some(9)), "{name}");
            client.kill_run(&vm, &id).await.unwrap();
            let child =
                spec(format!("{id}_c"), "kill -0 $(cat /tmp/child) 2>/dev/null && echo alive || echo dead");
            assert_eq!(text(&client.start_run(&vm, &child, WAIT).await.unwrap()).0, "dead\n", "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_with_its_shell_or_with_its_time() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in bench.both() {
            let leaves = spec(format!("cmd_{name}_1"), "sleep 300 & echo $! > /tmp/left; echo ready");
            let report = client.start_run(&vm, &leaves, WAIT).await.unwrap();
            assert_eq!((report.state, text(&report).0), (RunState::Exited, "ready\n".to_owned()), "{name}");
            let lives = spec(
                format!("cmd_{name}_2"),
                "kill -0 $(cat /tmp/left) && echo alive; kill $(cat /tmp/left)",
            );
            assert_eq!(text(&client.start_run(&vm, &lives, WAIT).await.unwrap()).0, "alive\n", "{name}");

            let slow =
                RunSpec { timeout_secs: Some(1), ..spec(format!("cmd_{name}_3"), "echo begun; sleep 300") };
            let report = client.start_run(&vm, &slow, WAIT).await.unwrap();
            assert_eq!((report.state, report.exit_code), (RunState::TimedOut, None), "{name}");
            assert_eq!((text(&report).0.as_str(), report.duration_ms >= 1000), ("begun\n", true), "{name}");

            // Killed by its own hand is no kill of ours.
            let by_itself = spec(format!("cmd_{name}_4"), "kill -9 $$");
            let report = client.start_run(&vm, &by_itself, WAIT).await.unwrap();
            assert_eq!(report.state, RunState::Exited, "{name}");
            assert!(report.signal == Some(9) || report.exit_code == Some(137), "{name}: {report:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_refused_with_a_reason_and_may_be_started_later() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in bench.both() {
            let place = format!("/tmp/later-{name}");
            let run = RunSpec { working_dir: place.clone(), ..spec(format!("cmd_{name}"), "pwd") };
            match client.start_run(&vm, &run, WAIT).await {
                Err(VmError::Refused(why)) => assert!(why.contains(&place), "{name}: {why}"),
                other => panic!("{name}: {other:?}"),
            }
            let make = spec(format!("cmd_{name}_mk"), &format!("mkdir {place}"));
            client.start_run(&vm, &make, WAIT).await.unwrap();
            assert_eq!(
                text(&client.start_run(&vm, &run, WAIT).await.unwrap()).0,
                format!("{place}\n"),
                "{name}"
            );
            let bad = RunSpec { run_id: "../etc".to_owned(), ..spec("x", "true") };
            assert!(matches!(client.start_run(&vm, &bad, WAIT).await, Err(VmError::Refused(_))), "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_output_is_read_piece_by_piece_with_its_end_kept() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in bench.both() {
            // 24 MB in lines of ten bytes, then time for the script to give the middle back.
            let run = spec(format!("cmd_{name}"), "seq -f %09.0f 2400000; sleep 4; echo the end");
            client.start_run(&vm, &run, WAIT).await.unwrap();
            let total = ended(client, &vm, &run.run_id).await.stdout.total;
            assert_eq!(total, 24_000_008, "{name}");
            let (mut offset, mut kept, mut last) = (0, 0u64, String::new());
            let mut dropped = 0;
            while offset < total {
                let report =
                    client.read_run(&vm, &run.run_id, from(offset, 0, NO_WAIT)).await.unwrap().unwrap();
                let chunk = report.stdout;
                assert!(chunk.data.len() <= 1024 * 1024 && chunk.next > offset, "{name}");
                // What is shown stands where it stood in the stream.
                let line = (chunk.offset.div_ceil(10) * 10 - chunk.offset) as usize;
                if chunk.offset < 23_990_000 {
                    let number: u64 =
                        std::str::from_utf8(&chunk.data[line..line + 9]).unwrap().parse().unwrap();
                    assert_eq!(number, chunk.offset.div_ceil(10) + 1, "{name}");
                }
                (offset, dropped) = (chunk.next, chunk.dropped);
                kept += chunk.data.len() as u64;
                last = String::from_utf8_lossy(&chunk.data).into_owned();
            }
            assert!(last.ends_with("the end\n"), "{name}");
            assert_eq!(kept + dropped, total, "{name}");
            assert!(dropped > 10_000_000 && kept >= 8_000_000, "{name}: {dropped} dropped");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_restart_of_the_vm_cut_off_is_lost_and_not_run_again() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let boot = bench.client.boot_id(&vm).await.unwrap();
        assert_eq!(bench.scripted.boot_id(&vm).await.unwrap(), boot);
        let run = |name: &str| spec(format!("cmd_{name}"), &format!("echo x >> /var/tmp/{name}; sleep 300"));
        for (name, client) in bench.both() {
            let from_now = from(0, 0, Duration::from_millis(500));
            client.start_run(&vm, &run(name), NO_WAIT).await.unwrap();
            while client.stat(&vm, &format!("/var/tmp/{name}"), "user").await.unwrap().is_none() {
                client.read_run(&vm, &run(name).run_id, from_now).await.unwrap();
            }
        }
        restart_from_files(&bench.config.api_url, bench.config.api_key.expose(), &vm).await;
        bench.client.connect_vm(&vm, 600).await.unwrap();
        assert_ne!(bench.client.boot_id(&vm).await.unwrap(), boot);
        for (name, client) in bench.both() {
            let report = client.read_run(&vm, &run(name).run_id, from(0, 0, NO_WAIT)).await.unwrap().unwrap();
            // envd ends with the VM in good order and notes how the run ended; the script cannot.
            let told = report.state == RunState::Lost || report.signal.is_some();
            assert!(told && (name == "envd" || report.state == RunState::Lost), "{name}: {report:?}");
            let again = client.start_run(&vm, &run(name), WAIT).await.unwrap();
            assert_eq!(again, report, "{name}");
            let file = client.read_file(&vm, &format!("/var/tmp/{name}"), "user", 100).await.unwrap();
            assert_eq!(file, "x\n", "{name}");
        }
    })
    .await;
}

/// Pauses the VM keeping its files only, which ends its processes.
async fn restart_from_files(api_url: &str, key: &str, vm: &str) {
    let paused = reqwest::Client::new()
        .post(format!("{api_url}/sandboxes/{vm}/pause"))
        .header("x-api-key", key)
        .json(&serde_json::json!({"memory": false}))
        .send()
        .await
        .unwrap();
    assert!(paused.status().is_success(), "{}", paused.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_script_was_killed_before_it_looked_after_the_run_is_lost() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let client = &bench.scripted;
        client.start_run(&vm, &spec("cmd_warm", "true"), WAIT).await.unwrap();
        // As a crash between the claim and the runner leaves it, a minute ago.
        let claim = "d=/var/lib/pvm/runs/cmd_half; mkdir $d && touch -d '-60 seconds' $d";
        let claim = RunSpec { user: "root".to_owned(), ..spec("cmd_claim", claim) };
        assert_eq!(client.start_run(&vm, &claim, WAIT).await.unwrap().exit_code, Some(0));
        let report = client.start_run(&vm, &spec("cmd_half", "echo ran"), WAIT).await.unwrap();
        assert_eq!((report.state, text(&report).0), (RunState::Lost, String::new()));
        // One that was claimed just now may still be on its way.
        let claim =
            RunSpec { user: "root".to_owned(), ..spec("cmd_claim2", "mkdir /var/lib/pvm/runs/cmd_new") };
        client.start_run(&vm, &claim, WAIT).await.unwrap();
        let report = client.read_run(&vm, "cmd_new", from(0, 0, NO_WAIT)).await.unwrap().unwrap();
        assert_eq!(report.state, RunState::Running);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runner_does_not_make_a_living_command_lost() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let client = &bench.scripted;
        client
            .start_run(
                &vm,
                &spec("cmd_1", "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; echo end"),
                Duration::from_millis(700),
            )
            .await
            .unwrap();
        let kill = RunSpec {
            user: "root".to_owned(),
            ..spec("cmd_k", "kill -9 $(cut -d' ' -f1 /var/lib/pvm/runs/cmd_1/runner)")
        };
        assert_eq!(client.start_run(&vm, &kill, WAIT).await.unwrap().exit_code, Some(0));
        let report = client.read_run(&vm, "cmd_1", from(0, 0, NO_WAIT)).await.unwrap().unwrap();
        assert_eq!(report.state, RunState::Running);
        client.start_run(&vm, &spec("cmd_go", "touch /tmp/go"), WAIT).await.unwrap();
        // Once it has ended nobody can know how.
        assert_eq!(ended(client, &vm, "cmd_1").await.state, RunState::Lost);
    })
    .await;
}
