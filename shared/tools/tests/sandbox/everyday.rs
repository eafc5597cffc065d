//! What agents do every day: commands, files, services, git.

use std::time::Duration;

use pvm_application::ports::{EndVm, VmError};
use pvm_application::ports_tools::{ToolProgress, Tools};
use serde_json::json;

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_as_the_user_asked_for_with_the_projects_environment() {
    let lab = Lab::start("host").await;
    let out = lab.ok("execute_command", json!({"command": "id -un; pwd; echo $GREETING $TERM"})).await;
    assert_eq!(out["stdout"], "user\n/workspace\nhello dumb\n", "{out}");
    let out =
        lab.ok("execute_command", json!({"command": "id -un", "user": "root", "working_dir": "/tmp"})).await;
    assert_eq!(out["stdout"], "root\n");
    let result = lab
        .within(
            &lab.context(),
            "execute_command",
            &json!({"command": "seq 1 300000"}),
            Duration::from_secs(30),
        )
        .await;
    let whole = result.output_path.unwrap();
    let out = lab.ok("read_file", json!({"path": whole, "user": "root", "start_line": 299_999})).await;
    assert!(out["content"].as_str().unwrap().starts_with("299999\n300000"), "the whole output can be read");
    let text = lab.fails("execute_command", json!({"command": "true", "working_dir": "/nowhere"})).await;
    assert!(text.contains("nowhere") || text.contains("directory"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_command_is_watched_killed_and_lost_with_its_vm() {
    let lab = Lab::start("host").await;
    let context = lab.context();
    let args = json!({"command": "echo begun; sleep 100", "timeout_secs": 200});
    let first =
        lab.registry.start(&context, "execute_command", &args, Duration::from_millis(300)).await.unwrap();
    assert!(matches!(first, ToolProgress::Running { output, .. } if output == "begun\n"));
    let seen = lab.ok("get_command", json!({"command_id": context.call_id})).await;
    assert_eq!(seen["status"], "running");
    lab.registry.kill(&context, "execute_command", &args).await.unwrap();
    let end = lab.registry.poll(&context, "execute_command", &args, Duration::from_secs(5)).await.unwrap();
    assert!(matches!(end, ToolProgress::Done(result) if result.is_error && result.text.contains("Killed")));
    lab.vm.kill_vm(&lab.vm_id).await.unwrap();
    let gone = lab.registry.start(&lab.context(), "execute_command", &args, Duration::from_secs(5)).await;
    assert!(matches!(gone, Err(VmError::Gone)), "{gone:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_owners_and_permissions_say_no() {
    let lab = Lab::start("host").await;
    let out = lab
        .ok(
            "write_file",
            json!({"path": "conf/app.ini", "content": "a=1\n", "mode": "0640", "owner": "root:user"}),
        )
        .await;
    assert_eq!((out["owner"].as_str(), out["mode"].as_str()), (Some("root:user"), Some("0640")));
    let out = lab.ok("read_file", json!({"path": "/workspace/conf/app.ini"})).await;
    assert_eq!((out["content"].as_str(), out["owner"].as_str()), (Some("a=1\n"), Some("root:user")));
    let out = lab
        .ok(
            "edit_file",
            json!({"path": "conf/app.ini", "old_string": "1", "new_string": "2", "user": "root"}),
        )
        .await;
    assert_eq!((out["owner"].as_str(), out["mode"].as_str()), (Some("root:user"), Some("0640")));
    let theirs = json!({"path": "/etc/app.ini", "content": "x", "owner": "root:root"});
    let text = lab.fails("write_file", theirs).await;
    assert!(text.contains("ermission denied"), "giving a file away opens no directory: {text}");
    let text = lab.fails("write_file", json!({"path": "a", "content": "x", "owner": "nobody-here"})).await;
    assert!(text.contains("its owner cannot be set to nobody-here"), "{text}");
    lab.ok("execute_command", json!({"command": "rm a"})).await;
    let text = lab.fails("write_file", json!({"path": "/root/x", "content": "x"})).await;
    assert!(text.contains("was not written"), "{text}");
    let text = lab.fails("write_file", json!({"path": "/etc/hostname", "content": "x"})).await;
    assert!(text.contains("ermission denied"), "{text}");
    let secret = "umask 077; echo secret > /etc/secret.ini";
    lab.ok("execute_command", json!({"command": secret, "user": "root"})).await;
    let text = lab.fails("read_file", json!({"path": "/etc/secret.ini"})).await;
    assert!(text.to_lowercase().contains("permission") || text.contains("refused"), "{text}");
    assert!(text.contains("root:root 0600") && text.contains("user=root"), "{text}");
    let text = lab.fails("list_directory", json!({"path": "/root"})).await;
    assert!(text.contains("Permission denied"), "{text}");
    lab.ok("execute_command", json!({"command": "ln -s /etc/secret.ini link"})).await;
    let text = lab.fails("read_file", json!({"path": "link"})).await;
    assert!(text.contains("Permission denied"), "a link is no way around: {text}");
    lab.ok("execute_command", json!({"command": "rm link"})).await;
    let big = "x".repeat(3 * 1024 * 1024);
    let out = lab.ok("write_file", json!({"path": "big.txt", "content": big})).await;
    assert_eq!(out["size"], 3 * 1024 * 1024);
    let out = lab.ok("list_directory", json!({"depth": 2})).await;
    let paths: Vec<&str> =
        out["entries"].as_array().unwrap().iter().filter_map(|e| e["path"].as_str()).collect();
    assert_eq!(paths, ["big.txt", "conf", "conf/app.ini"]);
    let out = lab.ok("search_files", json!({"pattern": r"a=\d", "user": "root"})).await;
    assert_eq!(out["count"], 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_started_once_seen_and_stopped() {
    let lab = Lab::start("host").await;
    let args = json!({"service_name": "web", "command": "echo up >&2; exec python3 -m http.server 5055", "port": 5055});
    let context = lab.context();
    let first = lab.within(&context, "start_service", &args, Duration::from_secs(20)).await;
    assert!(!first.is_error, "{}", first.text);
    let out = first.structured.unwrap();
    assert_eq!(out["status"], "running");
    assert!(out["url"].as_str().unwrap().contains("5055"));
    let again = lab.within(&context, "start_service", &args, Duration::from_secs(20)).await;
    assert_eq!(again.structured.unwrap()["service_id"], out["service_id"], "a repeated call starts nothing");
    let other = lab.ok("start_service", args.clone()).await;
    assert_eq!(other["service_id"], out["service_id"], "the same service again is the service");
    let text = lab.fails("start_service", json!({"name": "web", "command": "sleep 1"})).await;
    assert!(text.contains("stop it first"), "{text}");
    lab.ok("execute_command", json!({"command": "curl -fsS http://127.0.0.1:5055/ > /dev/null"})).await;
    let logs = lab.ok("service_logs", json!({"name": "web"})).await;
    assert!(logs["log"].as_str().unwrap().contains("GET / HTTP"), "{logs}");
    let all = lab.ok("list_services", json!({})).await;
    assert_eq!(all["services"][0]["name"], "web");
    lab.ok("stop_service", json!({"name": out["service_id"]})).await;
    assert_eq!(lab.ok("list_services", json!({})).await["services"], json!([]));
    assert!(lab.fails("stop_service", json!({"name": "web"})).await.contains("no service"));
    let text = lab
        .fails("start_service", json!({"name": "bad", "command": "echo reason; exit 3", "restart": "no"}))
        .await;
    assert!(text.contains("reason"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_signs_with_the_agents_name_and_the_machine_is_described() {
    let lab = Lab::start("host").await;
    lab.ok("git_operations", json!({"operation": "init", "path": "repo"})).await;
    lab.ok("write_file", json!({"path": "repo/a", "content": "x"})).await;
    lab.ok("git_operations", json!({"operation": "add", "path": "repo"})).await;
    let out = lab.ok("git_operations", json!({"operation": "commit", "path": "repo", "message": "m"})).await;
    assert_eq!(out["commits"][0]["author"], "dev_agent");
    let info = lab.ok("get_system_info", json!({})).await;
    assert_eq!(info["user"], "user");
    assert!(info["uptime_secs"].as_u64().unwrap() < 3600 && info["cpus"].as_u64().unwrap() >= 1);
    lab.finish().await;
}
