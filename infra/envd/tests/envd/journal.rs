use serde_json::{Value, json};

use crate::harness::{Envd, decode, encode, eventually, is_alive};

const START: &str = "/pvm.RunJournal/Start";
const READ: &str = "/pvm.RunJournal/Read";
const KILL: &str = "/pvm.RunJournal/Kill";

fn run(run_id: &str, script: &str) -> Value {
    json!({"runId": run_id, "process": {"cmd": "/bin/sh", "args": ["-c", script]}, "waitMs": 60_000})
}

fn text(chunk: &Value) -> String {
    String::from_utf8(decode(&chunk["data"])).unwrap()
}

#[tokio::test]
async fn a_run_is_reported_with_its_output_and_end() {
    let envd = Envd::start();
    let report = envd.call(START, run("r1", "echo out; echo err >&2; exit 3")).await;
    assert_eq!((report["state"].as_str(), report["exitCode"].as_i64()), (Some("exited"), Some(3)));
    assert_eq!(report["claimed"], true);
    assert_eq!((text(&report["stdout"]), text(&report["stderr"])), ("out\n".into(), "err\n".into()));
    assert_eq!(report["stdout"]["next"], 4);
    assert!(report["pid"].as_u64().unwrap() > 0 && report["endedAt"].is_string());
}

#[tokio::test]
async fn the_same_run_is_never_started_twice() {
    let envd = Envd::start();
    let counter = envd.path("count");
    let body = run("once", &format!("echo x >> {counter}; sleep 0.2; echo done"));
    let starts = (0..8).map(|_| envd.call(START, body.clone()));
    let reports = futures::future::join_all(starts).await;
    let claimed = reports.iter().filter(|report| report["claimed"] == true).count();
    assert_eq!(claimed, 1);
    for report in &reports {
        assert_eq!((report["state"].as_str(), text(&report["stdout"])), (Some("exited"), "done\n".into()));
    }
    let again = envd.call(START, body).await;
    assert_eq!((again["claimed"].as_bool(), again["exitCode"].as_i64()), (Some(false), Some(0)));
    assert_eq!(std::fs::read_to_string(counter).unwrap(), "x\n");
}

#[tokio::test]
async fn another_command_under_the_same_name_is_refused() {
    let envd = Envd::start();
    envd.call(START, run("r", "true")).await;
    assert_eq!(envd.error_code(START, run("r", "false")).await, "already_exists");
    for wrong in ["", "a/b", "..", "a b"] {
        assert_eq!(envd.error_code(START, run(wrong, "true")).await, "invalid_argument");
    }
    assert_eq!(envd.error_code(READ, json!({"runId": "unknown"})).await, "not_found");
}

#[tokio::test]
async fn a_run_that_cannot_start_leaves_its_name_free() {
    let envd = Envd::start();
    let mut body = run("r", "true");
    body["process"]["cwd"] = json!("/no/such/place");
    assert_eq!(envd.error_code(START, body).await, "invalid_argument");
    assert_eq!(envd.call(START, run("r", "true")).await["claimed"], true);
}

#[tokio::test]
async fn output_is_read_from_an_offset_as_it_comes() {
    let envd = Envd::start();
    let (first, second) = (envd.path("1"), envd.path("2"));
    let script = format!(
        "echo one; while [ ! -e {first} ]; do sleep 0.01; done; echo two; while [ ! -e {second} ]; do sleep 0.01; done"
    );
    let mut body = run("r", &script);
    body["waitMs"] = json!(0);
    let report = envd.call(START, body).await;
    assert_eq!(report["state"], "running");
    let read = |offset: u64| json!({"runId": "r", "stdoutOffset": offset, "waitMs": 60_000});
    let report = envd.call(READ, read(0)).await;
    assert_eq!((text(&report["stdout"]), report["state"].as_str()), ("one\n".into(), Some("running")));
    let waiting = envd.call(READ, read(4));
    let go = async { std::fs::write(&first, "").unwrap() };
    let (report, ()) = tokio::join!(waiting, go);
    assert_eq!((text(&report["stdout"]), report["stdout"]["offset"].as_u64()), ("two\n".into(), Some(4)));
    let waiting = envd.call(READ, read(8));
    let go = async { std::fs::write(&second, "").unwrap() };
    let (report, ()) = tokio::join!(waiting, go);
    assert_eq!((text(&report["stdout"]), report["state"].as_str()), (String::new(), Some("exited")));
}

#[tokio::test]
async fn long_output_keeps_both_ends() {
    let envd = Envd::start();
    let mut body = run("r", "seq 1 100000");
    body["outputLimit"] = json!(1000);
    let report = envd.call(START, body).await;
    let stdout = &report["stdout"];
    assert_eq!((stdout["total"].as_u64(), stdout["dropped"].as_u64()), (Some(588_895), Some(587_895)));
    assert!(text(stdout).starts_with("1\n2\n3\n"));
    let rest = envd.call(READ, json!({"runId": "r", "stdoutOffset": stdout["next"]})).await;
    assert!(text(&rest["stdout"]).ends_with("\n99999\n100000\n"));
    assert_eq!(rest["stdout"]["offset"], 588_395);
}

#[tokio::test]
async fn input_environment_and_directory_are_given() {
    let envd = Envd::start();
    let body = json!({"runId": "r", "process": {"cmd": "sh", "args": ["-c", "cat; echo $A; pwd"], "envs": {"A": "b"},
        "cwd": "/tmp"}, "stdin": encode("input\n"), "waitMs": 60_000});
    let report = envd.call(START, body).await;
    assert_eq!(text(&report["stdout"]), "input\nb\n/tmp\n");
}

#[tokio::test]
async fn the_time_limit_kills_the_whole_group() {
    let envd = Envd::start();
    let mut body = run("r", "sleep 100 & echo $!; wait");
    body["timeoutMs"] = json!(2000);
    let report = envd.call(START, body).await;
    assert_eq!((report["state"].as_str(), report["signal"].as_str()), (Some("timed_out"), Some("SIGKILL")));
    let child: u64 = text(&report["stdout"]).trim().parse().unwrap();
    eventually("the child dies", || !is_alive(child)).await;
}

#[tokio::test]
async fn a_run_is_killed_by_name_and_killing_again_does_nothing() {
    let envd = Envd::start();
    let mut body = run("r", "sleep 100");
    body["waitMs"] = json!(0);
    envd.call(START, body.clone()).await;
    assert_eq!(envd.call(KILL, json!({"runId": "r"})).await, json!({}));
    body["waitMs"] = json!(60_000);
    let report = envd.call(START, body).await;
    assert_eq!((report["state"].as_str(), report["signal"].as_str()), (Some("killed"), Some("SIGKILL")));
    assert_eq!(envd.call(KILL, json!({"runId": "r", "signal": "SIGNAL_SIGTERM"})).await, json!({}));
    assert_eq!(envd.call(READ, json!({"runId": "r"})).await["state"], "killed");
}

#[tokio::test]
async fn a_child_in_the_background_lives_on_and_its_output_is_kept() {
    let envd = Envd::start();
    let go = envd.path("go");
    let script = format!("(while [ ! -e {go} ]; do sleep 0.01; done; echo late) & echo now");
    let report = envd.call(START, run("r", &script)).await;
    assert_eq!((report["state"].as_str(), text(&report["stdout"])), (Some("exited"), "now\n".into()));
    std::fs::write(&go, "").unwrap();
    let stdout = envd.folder.join("runs/r/stdout");
    eventually("late output is kept", || std::fs::read(&stdout).is_ok_and(|text| text == b"now\nlate\n"))
        .await;
    let report = envd.call(READ, json!({"runId": "r", "stdoutOffset": 4})).await;
    assert_eq!(text(&report["stdout"]), "late\n");
}

#[tokio::test]
async fn after_a_crash_ended_runs_are_read_and_others_are_lost() {
    let envd = Envd::start();
    let done = run("done", "echo kept; exit 2");
    envd.call(START, done.clone()).await;
    let exit = envd.folder.join("runs/done/exit.json");
    eventually("the end is stored", || exit.exists()).await;
    let mut gone = run("gone", "echo before; exec sleep 100");
    gone["waitMs"] = json!(0);
    let pid = envd.call(START, gone.clone()).await["pid"].as_u64().unwrap();
    let stdout = envd.folder.join("runs/gone/stdout");
    eventually("there is output", || stdout.exists()).await;
    let (folder, _keep) = envd.kill();

    // The process outlived its daemon; as long as it does, the run is not lost.
    let envd = Envd::start_in(folder);
    let report = envd.call(START, done).await;
    assert_eq!((report["claimed"].as_bool(), report["exitCode"].as_i64()), (Some(false), Some(2)));
    assert_eq!(text(&report["stdout"]), "kept\n");
    assert_eq!(envd.call(READ, json!({"runId": "gone"})).await["state"], "running");
    envd.call(KILL, json!({"runId": "gone"})).await;
    eventually("it dies", || !is_alive(pid)).await;
    let report = envd.call(START, gone).await;
    assert_eq!((report["state"].as_str(), report["claimed"].as_bool()), (Some("lost"), Some(false)));
    assert_eq!(text(&report["stdout"]), "before\n");
    assert!(report["reason"].as_str().unwrap().contains("daemon went away"));
}

#[tokio::test]
async fn a_run_claimed_but_never_started_is_lost() {
    let envd = Envd::start();
    std::fs::create_dir(envd.folder.join("runs/half")).unwrap();
    let report = envd.call(START, run("half", "true")).await;
    assert_eq!((report["state"].as_str(), report["claimed"].as_bool()), (Some("lost"), Some(false)));
}

#[tokio::test]
async fn secrets_of_a_run_are_not_written_down() {
    let envd = Envd::start();
    let body = json!({"runId": "r", "process": {"cmd": "true", "envs": {"TOKEN": "hunter2"}},
        "stdin": encode("hunter2"), "waitMs": 60_000});
    envd.call(START, body).await;
    for entry in std::fs::read_dir(envd.folder.join("runs/r")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("hunter2") && !text.contains(&encode("hunter2")));
    }
}
