//! The real program at its start: what is in the way is told in one sentence with what to do, keys are made for their
//! owner only, and logs are JSON where asked.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The program that this build made beside the test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("pvm")
}

fn serve(home: &Path, http: &str) -> Command {
    let mut command = Command::new(program());
    command.arg("serve").env("PVM_HOME", home).env("PVM_HTTP_ADDR", http);
    command.env("PVM_E2B_ADDR", "127.0.0.1:0").env("PVM_S3_ADDR", "127.0.0.1:0").stdin(Stdio::null());
    command
}

/// What the program said when it refused: one line, without the panics and traces of a crash.
#[track_caller]
fn refusal(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "it started: {said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("pvm: ")).collect();
    assert_eq!((lines.len(), said.contains("panicked")), (1, false), "{said}");
    lines[0].to_owned()
}

#[test]
fn a_port_in_use_is_one_sentence_that_names_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refusal(&serve(&folder.path().join("state"), &address).output().unwrap());
    assert!(said.contains(&address) && said.contains("PVM_HTTP_ADDR"), "{said}");
    for setting in ["PVM_E2B_ADDR", "PVM_S3_ADDR"] {
        let mut command = serve(&folder.path().join("state"), "127.0.0.1:0");
        let said = refusal(&command.env(setting, &address).output().unwrap());
        assert!(said.contains(&address) && said.contains(setting), "{said}");
    }
}

#[test]
fn a_setting_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = refusal(&serve(&folder.path().join("state"), "somewhere").output().unwrap());
    assert!(said.contains("PVM_HTTP_ADDR") && said.contains("somewhere"), "{said}");
    assert!(!folder.path().join("state").exists(), "nothing was half-made");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let said = refusal(&serve(&file.join("state"), "127.0.0.1:0").output().unwrap());
    assert!(said.contains(file.to_str().unwrap()), "{said}");
}

#[test]
fn a_full_disk_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        &disk,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=64k,nr_inodes=64"),
    );
    mounted.unwrap();
    drop(std::fs::write(disk.join("filler"), vec![1u8; 128 * 1024]));
    let output = serve(&disk.join("state"), "127.0.0.1:0").output().unwrap();
    nix::mount::umount2(&disk, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let said = refusal(&output);
    assert!(said.contains("disk") && said.contains("full"), "{said}");
}

#[test]
fn a_kernel_without_user_namespaces_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let pvm = serve(&folder.path().join("state"), "127.0.0.1:0");
    // In a user namespace of its own the limit is that namespace's alone.
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" serve"]);
    command.arg(pvm.get_program()).stdin(Stdio::null());
    command.envs(pvm.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = refusal(&command.output().unwrap());
    assert!(said.contains("max_user_namespaces"), "{said}");
}

#[test]
fn keys_are_their_owners_logs_are_json_and_a_second_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("state");
    let mut command = serve(&home, "127.0.0.1:0");
    command.env("PVM_LOG_FORMAT", "json").stdout(Stdio::null()).stderr(Stdio::piped());
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "PVM_BEDROCK_REGION"] {
        command.env_remove(name);
    }
    command.env("ANTHROPIC_API_KEY", "sk-hush-hush");
    let mut child = command.spawn().unwrap();
    // The last thing at a start is the line that says where it listens.
    let mut lines = Vec::new();
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(std::io::BufRead::read_line(&mut err, &mut line).unwrap(), 0, "it ended: {lines:?}");
        let log: serde_json::Value = serde_json::from_str(&line).unwrap();
        let running = log.to_string().contains("running");
        lines.push(log);
        if running {
            break;
        }
    }
    for name in ["api-key", "e2b-api-key"] {
        let mode = std::fs::metadata(home.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let e2b = std::fs::read_to_string(home.join("e2b-api-key")).unwrap();
    let digits = e2b.trim().strip_prefix("e2b_").unwrap();
    assert!(digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "E2B's form");
    let logged = format!("{lines:?}");
    assert!(!logged.contains(digits) && !logged.contains("sk-hush-hush"), "a key is in the log");
    let last = lines.last().unwrap().to_string();
    assert!(last.contains(r#""models":"replay, anthropic""#), "which providers are set up: {last}");

    let said = refusal(&serve(&home, "127.0.0.1:0").output().unwrap());
    assert!(said.contains("PVM_HOME"), "{said}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "SIGTERM ends it cleanly");
}
