//! `make demo` as its user runs it: the real program, which starts a stack of its own, plays the main job and checks it.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pvm_tests::process::{assert_nothing_left, command, free_ports};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_holds_and_ends_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (home, ports) = (folder.path().join("state"), free_ports());
    let output = command(&home, ports, "demo").stdout(Stdio::piped()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let first = said.lines().next().unwrap();
    assert!(first.contains("recording") && first.contains("replay"), "{first}");
    for fact in [
        "the VM is active (template \"base\"",
        "both agents spoke",
        "the service `web-app` runs on port",
        "login works at",
        "counts every day of the CSV",
        "\"last_activity\"",
        "the project is gone (404)",
        "All facts hold",
    ] {
        assert!(said.contains(fact), "{fact} is not told: {said}");
    }
    assert!(TcpStream::connect(("127.0.0.1", ports[0])).await.is_err(), "the stack is still there");
    assert_nothing_left(home.to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_demo_ends_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (home, ports) = (folder.path().join("state"), free_ports());
    let mut demo = command(&home, ports, "demo").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("the VM is active") {
            break;
        }
    }
    let pid = Pid::from_raw(i32::try_from(demo.id().unwrap()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    // A reader that is gone would be an error of its own.
    while lines.next_line().await.unwrap().is_some() {}
    assert!(!demo.wait().await.unwrap().success());
    assert!(TcpStream::connect(("127.0.0.1", ports[0])).await.is_err(), "the stack is still there");
    assert_nothing_left(home.to_str().unwrap());
}
