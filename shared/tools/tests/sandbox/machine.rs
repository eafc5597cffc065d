//! `execute_command` and its kin, the services' tools and `get_system_info`, every option.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_its_directory_variables_input_and_account() {
    let lab = Lab::start("host").await;
    lab.ok("execute_command", json!({"command": "mkdir -p app/sub"})).await;
    let out = lab
        .ok(
            "execute_command",
            json!({"command": "pwd; echo \"$A/$GREETING\"; cat; id -un", "working_dir": "app/sub",
                   "env": ["A=x y", "GREETING=own"], "stdin": "first\nlast", "timeout_secs": 20}),
        )
        .await;
    assert_eq!(out["stdout"], "/workspace/app/sub\nx y/own\nfirst\nlastuser\n");
    let object = json!({"command": "echo $N; cd /; export LOST=1", "env": {"N": 5}});
    assert_eq!(lab.ok("execute_command", object).await["stdout"], "5\n");
    let out = lab.ok("execute_command", json!({"command": "pwd; echo \"[$LOST]\"; cat | wc -c"})).await;
    assert_eq!(out["stdout"], "/workspace\n[]\n0\n", "nothing is kept, and the input is empty");
    let text =
        lab.fails("execute_command", json!({"command": "echo begun; sleep 30", "timeout_secs": 1})).await;
    assert!(text.contains("time limit") && text.contains("begun"), "{text}");
    let text = lab.fails("execute_command", json!({"command": "kill -9 $$"})).await;
    assert!(text.contains("signal 9") || text.contains("137"), "{text}");
    // Several lines, a here-document, and words that are not text.
    let script = "cat > x.py <<'EOF'\nprint('é')\nEOF\npython3 x.py; printf '\\377\\n'";
    assert_eq!(lab.ok("execute_command", json!({"command": script})).await["stdout"], "é\n\u{fffd}\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_command_is_waited_for_read_on_and_killed() {
    let lab = Lab::start("host").await;
    let slow = json!({"command": "echo one; sleep 1.5; echo two", "background": true});
    let out = lab.ok("execute_command", slow).await;
    assert_eq!(out["status"], "running");
    let id = out["command_id"].clone();
    let seen = lab.ok("get_command", json!({"command_id": id})).await;
    assert_eq!((&seen["stdout"], &seen["next_offset"]), (&json!("one\n"), &json!(4)));
    let end = lab.ok("get_command", json!({"command_id": id, "wait_secs": 20})).await;
    assert_eq!(
        (&end["status"], &end["exit_code"], &end["stdout"]),
        (&json!("exited"), &json!(0), &json!("one\ntwo\n"))
    );
    let rest = lab.ok("get_command", json!({"command_id": id, "offset": 4})).await;
    assert_eq!((&rest["stdout"], &rest["next_offset"]), (&json!("two\n"), &json!(8)));
    let out =
        lab.ok("execute_command", json!({"command": "sleep 500 & sleep 500", "background": true})).await;
    let killed = lab.ok("kill_command", json!({"command_id": out["command_id"]})).await;
    assert_eq!(killed["status"], "killed");
    let left = lab.ok("execute_command", json!({"command": "pgrep -c -f '^sleep 500' || true"})).await;
    assert_eq!(left["stdout"], "0\n", "with all that it started");
    // What fails at once is told at once.
    let text = lab.fails("execute_command", json!({"command": "exit 4", "background": true})).await;
    assert!(text.contains("Exit code 4"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_its_directory_variables_account_and_ways_to_be_ready() {
    let lab = Lab::start("host").await;
    let server = "mkdir -p site; echo hello > site/index.html";
    lab.ok("execute_command", json!({"command": server})).await;
    let web = json!({"name": "web", "command": "echo \"as $(id -un) in $PWD with $COLOUR\"; exec python3 -m http.server $PORT_NO",
        "port": 5071, "working_dir": "site", "env": ["COLOUR=red", "PORT_NO=5071"], "user": "root",
        "ready_http_path": "/index.html", "restart": "always"});
    let out = lab.ok("start_service", web).await;
    assert_eq!((&out["status"], &out["port"]), (&json!("running"), &json!(5071)));
    let info = lab.ok("get_system_info", json!({"processes": 0})).await;
    let ports: Vec<&Value> = info["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
    assert!(ports.contains(&&json!(5071)), "{info}");
    let logs = lab.ok("service_logs", json!({"service_name": "web"})).await;
    assert!(logs["log"].as_str().unwrap().contains("as root in /workspace/site with red"), "{logs}");
    // Killed from inside, it comes back by its policy.
    lab.ok("execute_command", json!({"command": "pkill -f 'http.server 5071'", "user": "root"})).await;
    let back = "for i in $(seq 100); do curl -fs http://127.0.0.1:5071/ && exit 0; sleep 0.2; done; exit 1";
    assert_eq!(lab.ok("execute_command", json!({"command": back})).await["stdout"], "hello\n");

    let worker = json!({"name": "worker", "command": "sleep 0.3; echo 'now ready'; sleep 500",
        "ready_log_line": "now ready", "restart": "no"});
    assert_eq!(lab.ok("start_service", worker).await["status"], "running");
    let logs = lab.ok("service_logs", json!({"name": "worker", "lines": 1})).await;
    assert_eq!(logs["log"], "now ready");
    let all = lab.ok("list_services", json!({})).await;
    let names: Vec<&Value> =
        all["services"].as_array().unwrap().iter().map(|service| &service["name"]).collect();
    assert_eq!(names, ["web", "worker"]);
    lab.ok("stop_service", json!({"service_name": "web"})).await;
    lab.ok("stop_service", json!({"name": "worker"})).await;
    for (bad, why) in [
        (json!({"name": "a b", "command": "x"}), "name"),
        (json!({"name": "a", "command": " "}), "command"),
        (json!({"name": "a", "command": "x", "port": 0}), "port"),
        (json!({"name": "a", "command": "x", "port": 70_000}), "port"),
        (json!({"name": "a", "command": "x", "ready_http_path": "healthz"}), "ready"),
    ] {
        let text = lab.fails("start_service", bad).await;
        assert!(text.contains(why), "{text}");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_tells_all_of_itself() {
    let lab = Lab::start("host").await;
    let busy = json!({"command": "exec -a a-known-name sleep 100", "background": true});
    lab.ok("execute_command", busy).await;
    let info = lab.ok("get_system_info", json!({"processes": 100})).await;
    for field in ["os", "kernel", "architecture", "hostname", "user"] {
        assert!(!info[field].as_str().unwrap().is_empty(), "{field} in {info}");
    }
    for field in ["cpus", "memory_total_mib", "memory_available_mib"] {
        assert!(info[field].as_u64().unwrap() >= 1, "{field} in {info}");
    }
    assert_eq!(info["load"].as_array().unwrap().len(), 3);
    let disks = info["disks"].as_array().unwrap();
    assert!(
        disks.iter().any(|disk| disk["mount"] == "/" && disk["total_mib"].as_u64().unwrap() > 0),
        "{info}"
    );
    let processes = info["processes"].as_array().unwrap();
    assert!(
        processes.iter().any(|process| process["command"].as_str().unwrap().contains("a-known-name")),
        "{info}"
    );
    assert!(info["process_count"].as_u64().unwrap() >= processes.len() as u64);
    let tools: Vec<&str> =
        info["toolchains"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(tools.contains(&"python3") && tools.contains(&"git"), "{tools:?}");
    assert_eq!(
        lab.ok("get_system_info", json!({"processes": 1})).await["processes"].as_array().unwrap().len(),
        1
    );
    assert!(lab.fails("get_system_info", json!({"processes": 101})).await.contains("0 to 100"));
    let text = lab.within(&lab.context(), "get_system_info", &json!({}), Duration::from_secs(20)).await.text;
    assert!(text.contains("CPUs") && text.contains("Installed: ") && text.contains("Disk /:"), "{text}");
    lab.finish().await;
}
