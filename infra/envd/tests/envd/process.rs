use std::io::Write as _;

use hyper::{Method, StatusCode};
use pvm_e2b_wire::connect;
use serde_json::json;

use crate::harness::{Answer, Envd, decode, encode, eventually, is_alive, request};

const START: &str = "/process.Process/Start";
const CONNECT: &str = "/process.Process/Connect";
const SEND_INPUT: &str = "/process.Process/SendInput";
const SEND_SIGNAL: &str = "/process.Process/SendSignal";

#[tokio::test]
async fn output_and_exit_code_of_a_command_are_streamed() {
    let envd = Envd::start();
    let (mut messages, _) = envd.shell("echo out; echo err >&2; exit 3").await;
    let (stdout, stderr, end) = messages.finish().await;
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
    assert_eq!(
        end,
        json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"})
    );
}

#[tokio::test]
async fn announced_compression_is_undone_and_other_versions_of_the_protocol_are_refused() {
    let envd = Envd::start();
    let body = json!({"process": {"cmd": "/bin/echo", "args": ["packed"]}, "stdin": false}).to_string();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body.as_bytes()).unwrap();
    let frame = connect::encode(connect::FLAG_COMPRESSED, &encoder.finish().unwrap());
    let kind = ("content-type", "application/connect+json");
    for (encoding, expected) in
        [("gzip", "cGFja2VkCg=="), ("identity", "invalid_argument"), ("br", "unimplemented")]
    {
        let headers = [kind, ("connect-content-encoding", encoding)];
        let answer = envd.http(Method::POST, START, &headers, frame.clone()).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.status == StatusCode::OK && text.contains(expected), "{encoding}: {text}");
    }
    let plain = connect::encode(0, body.as_bytes());
    let answer = envd.http(Method::POST, START, &[kind, ("connect-protocol-version", "2")], plain).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("invalid_argument"));
    let headers = [("content-type", "application/json"), ("connect-protocol-version", "2")];
    let answer = envd.http(Method::POST, "/process.Process/List", &headers, "{}").await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_argument"))
    );
}

#[tokio::test]
async fn a_clean_exit_leaves_defaults_out() {
    let envd = Envd::start();
    let (mut messages, _) = envd.shell("true").await;
    assert_eq!(messages.finish().await.2, json!({"exited": true, "status": "exit status 0"}));
}

#[tokio::test]
async fn a_missing_program_ends_with_127_and_a_message() {
    let envd = Envd::start();
    let mut messages =
        envd.stream(START, json!({"process": {"cmd": "no-such-program", "args": ["x"]}})).await;
    messages.started().await;
    let (_, stderr, end) = messages.finish().await;
    assert_eq!(end["exitCode"], 127);
    assert!(String::from_utf8(stderr).unwrap().contains("no-such-program"));
}

#[tokio::test]
async fn wrong_requests_end_the_stream_with_an_error() {
    let envd = Envd::start();
    for (body, code) in [
        (json!({"process": {"cmd": "true", "cwd": "/no/such/place"}}), "invalid_argument"),
        (json!({"process": {}}), "invalid_argument"),
        (json!({"process": {"cmd": "true"}, "tag": "_system"}), "invalid_argument"),
        (json!({"process": {"cmd": 7}}), "invalid_argument"),
    ] {
        let end = envd.stream(START, body.clone()).await.next().await;
        assert_eq!(end["end"]["error"]["code"], code, "{body}");
    }
    let headers = [("authorization", "Basic bm8tc3VjaC11c2VyOg==")];
    let end = envd.stream_with(START, json!({"process": {"cmd": "true"}}), &headers).await.next().await;
    assert_eq!(end["end"]["error"]["code"], "unauthenticated");
    let answer = envd.http(Method::POST, START, &[("content-type", "application/json")], "{}").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = envd.http(Method::POST, "/process.Process/Nope", &[], "{}").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn no_number_in_a_header_ends_the_daemon() {
    let envd = Envd::start();
    let (mut running, pid) = envd.shell("sleep 1000").await;
    for seconds in ["18446744073709551615", "9223372036854775807", "4294967296", "0", "-1", "x"] {
        let silence = [("keepalive-ping-interval", seconds)];
        let process = json!({"cmd": "true"});
        let mut started = envd.stream_with(START, json!({"process": process}), &silence).await;
        started.started().await;
        started.finish().await;
        let connect = json!({"process": {"pid": pid}});
        envd.stream_with("/process.Process/Connect", connect, &silence).await.started().await;
        let watch = json!({"path": envd.folder});
        let first = envd.stream_with("/filesystem.Filesystem/WatchDir", watch, &silence).await.next().await;
        assert!(first.get("start").is_some(), "{first}");
    }
    for header in ["connect-timeout-ms", "x-pvm-upload-bytes"] {
        let headers = [(header, "9999999999")];
        envd.stream_with(START, json!({"process": {"cmd": "true"}}), &headers).await.started().await;
    }
    assert_eq!(envd.get("/health").await.status, StatusCode::NO_CONTENT);
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    envd.call("/process.Process/SendSignal", kill).await;
    running.finish().await;
}

#[tokio::test]
async fn an_authorization_that_names_no_user_says_nothing() {
    let envd = Envd::start();
    let (mut messages, _) = envd.shell("id -un").await;
    let me = messages.finish().await.0;
    for value in ["Bearer some-token", "Basic !!!", "Basic dXNlcg==", "Digest x"] {
        let process = json!({"process": {"cmd": "id", "args": ["-un"]}});
        let mut messages = envd.stream_with(START, process, &[("authorization", value)]).await;
        messages.started().await;
        assert_eq!(messages.finish().await.0, me, "{value}");
    }
}

#[tokio::test]
async fn environment_and_directory_are_as_asked() {
    let envd = Envd::start();
    let init = json!({"envVars": {"FROM_INIT": "1", "BOTH": "init"}}).to_string();
    let answer = envd.http(Method::POST, "/init", &[], init).await;
    assert_eq!((answer.status, answer.header("x-envd-version")), (StatusCode::NO_CONTENT, "0.6.13"));
    assert_eq!(envd.get("/envs").await.json(), json!({"FROM_INIT": "1", "BOTH": "init"}));
    let script = "echo $FROM_INIT $BOTH $HOME $USER; pwd";
    let process =
        json!({"cmd": "sh", "args": ["-c", script], "envs": {"BOTH": "request"}, "cwd": envd.folder});
    let mut messages = envd.stream(START, json!({"process": process})).await;
    messages.started().await;
    let (stdout, ..) = messages.finish().await;
    let expected = format!("1 request /root root\n{}\n", envd.folder.canonicalize().unwrap().display());
    assert_eq!(String::from_utf8(stdout).unwrap(), expected);
}

#[tokio::test]
async fn input_reaches_the_process_until_it_is_closed() {
    let envd = Envd::start();
    let mut messages = envd.stream(START, json!({"process": {"cmd": "cat"}, "stdin": true})).await;
    let pid = messages.started().await;
    let selector = json!({"pid": pid});
    envd.call(SEND_INPUT, json!({"process": selector, "input": {"stdin": encode("one ")}})).await;
    messages.until("one ").await;
    let big = "x".repeat(300_000);
    let body = json!({"process": selector, "input": {"stdin": encode(&big)}});
    let (sent, _) = tokio::join!(envd.call(SEND_INPUT, body), messages.until(&big));
    assert_eq!(sent, json!({}));
    envd.call("/process.Process/CloseStdin", json!({"process": selector})).await;
    let (_, _, end) = messages.finish().await;
    assert_eq!(end["exited"], true);
}

#[tokio::test]
async fn input_that_nobody_takes_is_an_error_of_state() {
    let envd = Envd::start();
    let (_messages, pid) = envd.shell("sleep 100").await;
    let body = json!({"process": {"pid": pid}, "input": {"stdin": encode("x")}});
    assert_eq!(envd.error_code(SEND_INPUT, body).await, "failed_precondition");
    let body = json!({"process": {"pid": pid}, "input": {"pty": encode("x")}});
    assert_eq!(envd.error_code(SEND_INPUT, body).await, "failed_precondition");
    let body = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}});
    assert_eq!(envd.error_code("/process.Process/Update", body).await, "failed_precondition");
}

#[tokio::test]
async fn streamed_input_arrives_in_order() {
    let envd = Envd::start();
    let mut messages = envd.stream(START, json!({"process": {"cmd": "cat"}, "tag": "catty"})).await;
    messages.started().await;
    let mut frames = Vec::new();
    let mut add = |value: serde_json::Value| {
        frames.extend_from_slice(&pvm_e2b_wire::connect::encode(0, value.to_string().as_bytes()));
    };
    add(json!({"start": {"process": {"tag": "catty"}}}));
    add(json!({"keepalive": {}}));
    for number in 0..1000 {
        add(json!({"data": {"input": {"stdin": encode(format!("{number}\n"))}}}));
    }
    let headers = [("content-type", "application/connect+json")];
    let answer = Answer::read(
        envd.send(request(Method::POST, "/process.Process/StreamInput", &headers, frames)).await,
    );
    let (answer, output) = tokio::join!(answer, messages.until("\n999\n"));
    assert_eq!(answer.body.as_ref(), b"\x00\x00\x00\x00\x02{}\x02\x00\x00\x00\x02{}");
    let numbers: Vec<u32> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn signals_end_processes_and_are_told() {
    let envd = Envd::start();
    for (signal, status) in [(json!("SIGNAL_SIGKILL"), "signal: killed"), (json!(15), "signal: terminated")] {
        let (mut messages, pid) = envd.shell("sleep 100").await;
        envd.call(SEND_SIGNAL, json!({"process": {"pid": pid}, "signal": signal})).await;
        let (_, _, end) = messages.finish().await;
        assert_eq!(end, json!({"exitCode": -1, "status": status, "error": status}));
    }
    let (_messages, pid) = envd.shell("sleep 100").await;
    let body = json!({"process": {"pid": pid}, "signal": 2});
    assert_eq!(envd.error_code(SEND_SIGNAL, body).await, "unimplemented");
    let body = json!({"process": {"pid": 999_999}, "signal": 9});
    let (status, answer) = envd.try_call(SEND_SIGNAL, body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer, json!({"code": "not_found", "message": "process with pid 999999 not found"}));
}

#[tokio::test]
async fn killing_takes_what_the_command_started_with_it() {
    let envd = Envd::start();
    let (mut messages, pid) = envd.shell("sleep 100 & echo $!; wait").await;
    let child: u64 = messages.until("\n").await.trim().parse().unwrap();
    assert!(is_alive(child));
    envd.call(SEND_SIGNAL, json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})).await;
    messages.finish().await;
    eventually("the child dies", || !is_alive(child)).await;
}

#[tokio::test]
async fn the_time_limit_kills_and_ends_the_stream_with_its_error() {
    let envd = Envd::start();
    let process = json!({"process": {"cmd": "sleep", "args": ["100"]}});
    let mut messages = envd.stream_with(START, process, &[("connect-timeout-ms", "2000")]).await;
    let pid = messages.started().await;
    let end = messages.next().await;
    assert_eq!(end["end"]["error"]["code"], "deadline_exceeded");
    eventually("the process dies", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_the_process_and_output_waits_for_the_next() {
    let envd = Envd::start();
    let go = envd.path("go");
    let script = format!("echo first; while [ ! -e {go} ]; do sleep 0.01; done; echo second; exit 5");
    let (mut messages, pid) = envd.shell(&script).await;
    messages.until("first\n").await;
    drop(messages);
    assert!(is_alive(pid));
    std::fs::write(&go, "").unwrap();
    eventually("the process ends", || !is_alive(pid)).await;
    let mut late = envd.stream(CONNECT, json!({"process": {"pid": pid}})).await;
    assert_eq!(late.started().await, pid);
    let (stdout, _, end) = late.finish().await;
    assert!(stdout.ends_with(b"second\n"));
    assert_eq!(end["exitCode"], 5);
    // Asked again, all that is kept comes again.
    let mut replay = envd.stream(CONNECT, json!({"process": {"pid": pid}, "replay": true})).await;
    replay.started().await;
    assert_eq!(replay.finish().await.0, b"first\nsecond\n");
}

#[tokio::test]
async fn connecting_to_what_never_was_is_not_found() {
    let envd = Envd::start();
    for selector in [json!({"pid": 999_999}), json!({"tag": "nope"})] {
        let end = envd.stream(CONNECT, json!({"process": selector})).await.next().await;
        assert_eq!(end["end"]["error"]["code"], "not_found");
    }
}

#[tokio::test]
async fn running_processes_are_listed_with_their_tags() {
    let envd = Envd::start();
    let body = json!({"process": {"cmd": "sleep", "args": ["100"]}, "tag": "sleeper"});
    let mut messages = envd.stream(START, body).await;
    let pid = messages.started().await;
    let (mut other, _) = envd.shell("true").await;
    other.finish().await;
    let list = envd.call("/process.Process/List", json!({})).await;
    assert_eq!(
        list,
        json!({"processes": [{"config": {"cmd": "sleep", "args": ["100"]}, "pid": pid, "tag": "sleeper"}]})
    );
}

#[tokio::test]
async fn a_child_in_the_background_neither_holds_the_end_back_nor_dies_of_it() {
    let envd = Envd::start();
    let (go, mark) = (envd.path("go"), envd.path("mark"));
    let script =
        format!("(while [ ! -e {go} ]; do sleep 0.01; done; echo late; echo alive > {mark}) & echo now");
    let (mut messages, _) = envd.shell(&script).await;
    let (stdout, ..) = messages.finish().await;
    assert_eq!(stdout, b"now\n");
    std::fs::write(&go, "").unwrap();
    eventually("the child goes on", || std::path::Path::new(&mark).exists()).await;
}

#[tokio::test]
async fn large_output_arrives_whole() {
    let envd = Envd::start();
    let (mut messages, _) = envd.shell("head -c 20000000 /dev/zero | tr '\\0' x").await;
    let (stdout, ..) = messages.finish().await;
    assert_eq!(stdout.len(), 20_000_000);
    assert!(stdout.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn silence_is_broken_by_signs_of_life() {
    let envd = Envd::start();
    let headers = [("keepalive-ping-interval", "1")];
    let process = json!({"process": {"cmd": "sleep", "args": ["100"]}});
    let mut messages = envd.stream_with(START, process, &headers).await;
    messages.started().await;
    assert_eq!(messages.next().await, json!({"event": {"keepalive": {}}}));
}

#[tokio::test]
async fn a_terminal_has_a_size_takes_input_and_is_resized() {
    let envd = Envd::start();
    let body = json!({"process": {"cmd": "/bin/sh", "args": ["-c", "tty; stty size; read line; stty size; exit 4"]},
        "pty": {"size": {"cols": 101, "rows": 33}}});
    let mut messages = envd.stream(START, body).await;
    let pid = messages.started().await;
    let output = messages.until("33 101").await;
    assert!(output.contains("/dev/pts/"), "{output}");
    let size = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 120, "rows": 50}}});
    envd.call("/process.Process/Update", size).await;
    envd.call(SEND_INPUT, json!({"process": {"pid": pid}, "input": {"pty": encode("\n")}})).await;
    messages.until("50 120").await;
    assert_eq!(messages.finish().await.2["exitCode"], 4);
}

#[tokio::test]
async fn control_c_on_a_terminal_interrupts_the_foreground() {
    let envd = Envd::start();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.01; done";
    let body = json!({"process": {"cmd": "/bin/sh", "args": ["-c", script]}, "pty": {}});
    let mut messages = envd.stream(START, body).await;
    let pid = messages.started().await;
    messages.until("ready").await;
    envd.call(SEND_INPUT, json!({"process": {"pid": pid}, "input": {"pty": encode("\x03")}})).await;
    messages.until("interrupted").await;
    assert_eq!(messages.finish().await.2["exitCode"], 9);
    let body = json!({"process": {"pid": pid}});
    assert_eq!(envd.error_code("/process.Process/CloseStdin", body).await, "not_found");
}

#[tokio::test]
async fn unary_calls_take_gzip_and_refuse_what_is_not_json() {
    use std::io::Write as _;
    let envd = Envd::start();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"{}").unwrap();
    let headers = [("content-type", "application/json; charset=utf-8"), ("content-encoding", "gzip")];
    let answer = envd.http(Method::POST, "/process.Process/List", &headers, encoder.finish().unwrap()).await;
    assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, b"{}".as_slice()));
    let headers = [("content-type", "application/json")];
    let answer = envd.http(Method::POST, "/process.Process/List", &headers, "{").await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("invalid_argument"))
    );
    let headers = [("content-type", "application/json"), ("content-encoding", "br")];
    let answer = envd.http(Method::POST, "/process.Process/List", &headers, "{}").await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn a_message_larger_than_the_limit_is_refused_at_once() {
    let envd = Envd::start();
    let headers = [("content-type", "application/connect+json")];
    // A header that announces 4 GiB, with nothing behind it.
    let frame = b"\x00\xff\xff\xff\xff".to_vec();
    let answer = Answer::read(envd.send(request(Method::POST, START, &headers, frame)).await).await;
    let error: serde_json::Value = serde_json::from_slice(&answer.body[5..]).unwrap();
    assert_eq!(error["error"]["code"], "resource_exhausted");
}

#[tokio::test]
async fn binary_output_survives() {
    let envd = Envd::start();
    let (mut messages, _) = envd.shell("printf '\\377\\000\\001'").await;
    let message = messages.next().await;
    assert_eq!(decode(&message["event"]["data"]["stdout"]), [0xff, 0, 1]);
}

/// `nobody:` of every Debian, whose id is another than that of the tests.
const NOBODY: (&str, &str) = ("authorization", "Basic bm9ib2R5Og==");

#[tokio::test]
async fn a_named_user_runs_the_command_and_owns_the_files() {
    let envd = Envd::start();
    let body =
        json!({"process": {"cmd": "sh", "args": ["-c", "id -un; id -Gn; echo $USER; pwd"], "cwd": "/"}});
    let mut messages = envd.stream_with(START, body, &[NOBODY]).await;
    messages.started().await;
    assert_eq!(messages.finish().await.0, b"nobody\nnogroup\nnobody\n/\n");
    let folder = tempfile::Builder::new().prefix("envd-user").tempdir().unwrap();
    let path = folder.path().join("a/f");
    let uri = format!("/files?username=nobody&path={}", path.display());
    let headers = [("content-type", "application/octet-stream")];
    assert_eq!(envd.http(Method::POST, &uri, &headers, "x").await.status, StatusCode::OK);
    let stat = "/filesystem.Filesystem/Stat";
    for path in [path.as_path(), path.parent().unwrap()] {
        assert_eq!(envd.call(stat, json!({"path": path})).await["entry"]["owner"], "nobody");
    }
}

#[tokio::test]
async fn a_directory_that_the_user_may_not_enter_is_refused() {
    let envd = Envd::start();
    let folder = tempfile::tempdir().unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(folder.path(), closed).unwrap();
    let body = json!({"process": {"cmd": "true", "cwd": folder.path()}});
    let end = envd.stream_with(START, body, &[NOBODY]).await.next().await;
    assert_eq!(end["end"]["error"]["code"], "invalid_argument");
}

#[tokio::test]
async fn input_that_nobody_reads_does_not_hold_the_end_back() {
    let envd = Envd::start();
    let script = "exec 3<&0; sleep 100 <&3 >/dev/null 2>&1 & echo $!; read line";
    let process = json!({"cmd": "sh", "args": ["-c", script]});
    let mut messages = envd.stream(START, json!({"process": process, "stdin": true})).await;
    let pid = messages.started().await;
    let child: u64 = messages.until("\n").await.trim().parse().unwrap();
    // More than a pipe holds; what the shell does not read, the child left behind keeps open.
    let body = json!({"process": {"pid": pid}, "input": {"stdin": encode("x\n".repeat(200_000))}});
    tokio::select! {
        answer = envd.try_call(SEND_INPUT, body) => panic!("nobody reads it, but: {answer:?}"),
        (_, _, end) = messages.finish() => assert_eq!(end["exited"], true),
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(child as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}
