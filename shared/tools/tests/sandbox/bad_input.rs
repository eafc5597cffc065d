//! Whatever a model or client sends, the answer is a result that says what is wrong, and the machine goes on.

use std::time::Duration;

use pvm_application::ports_tools::{ToolProgress, Tools};
use serde_json::{Value, json};

use crate::lab::Lab;

/// Text that no argument was made for: control characters, escape sequences, half of a surrogate as text, other scripts.
const GARBAGE: &str =
    "\u{0}\u{1}\u{1b}[2J\r\n\\ud800\u{fffd}\u{202e}$(touch /workspace/pwned)`id`';\"\u{7f}\u{10ffff}";

/// Arguments of a call that does little: those that would ask registries or remotes end before, by their time limit.
fn small(name: &str) -> Value {
    match name {
        "execute_command" => json!({"command": "true", "timeout_secs": 5}),
        "get_command" | "kill_command" => json!({"command_id": "cmd_none"}),
        "read_file" => json!({"path": "a.txt"}),
        "write_file" => json!({"path": "b.txt", "content": "b"}),
        "edit_file" => json!({"path": "a.txt", "old_string": "nowhere", "new_string": "b"}),
        "search_files" => json!({"pattern": "x"}),
        "install_package" => json!({"package": "nothing", "manager": "pip", "timeout_secs": 0}),
        "start_service" => json!({"name": "s", "command": "exit 1", "restart": "no"}),
        "stop_service" | "service_logs" => json!({"name": "s"}),
        "git_operations" => json!({"operation": "status", "timeout_secs": 5}),
        "create_development_environment" => json!({"kind": "python", "timeout_secs": 0}),
        _ => json!({}),
    }
}

/// Runs a call to its answer, which must come within `secs`.
async fn answer(lab: &Lab, name: &str, arguments: &Value, secs: u64) -> (bool, String) {
    let shown: String = arguments.to_string().chars().take(300).collect();
    let started = lab.registry.start(&lab.context(), name, arguments, Duration::from_secs(secs)).await;
    match started.unwrap_or_else(|error| panic!("{name} {shown}: {error:?}")) {
        ToolProgress::Done(result) => {
            assert!(result.text.len() <= 32 * 1024 && !result.text.trim().is_empty(), "{name} {shown}");
            (result.is_error, result.text)
        }
        ToolProgress::Running { output, .. } => panic!("{name} {shown} still runs: {output}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_argument_of_no_tool_breaks_anything() {
    let lab = Lab::start("host").await;
    lab.ok("write_file", json!({"path": "a.txt", "content": "a\n"})).await;
    let long = "x".repeat(300_000);
    for entry in pvm_tools::entries() {
        let name = entry.definition.name.as_str();
        let schema = &entry.definition.input_schema;
        for (field, wanted) in schema["properties"].as_object().unwrap() {
            let kind = wanted["type"].as_str().unwrap();
            let values = [
                json!(GARBAGE),
                json!(long),
                json!(""),
                json!(-1),
                json!(1e300),
                json!({"a": {"b": [1]}}),
                json!([[1], GARBAGE]),
            ];
            for value in values {
                let mut arguments = small(name);
                arguments[field] = value.clone();
                let (is_error, text) = answer(&lab, name, &arguments, 20).await;
                // What can never be meant is refused, and the refusal names the argument.
                let never = match kind {
                    "integer" | "boolean" => true,
                    _ => value.is_object() && kind == "string",
                };
                let is_pairs = kind == "array" && value.is_object();
                if never || (is_pairs && field != "files") {
                    assert!(is_error && text.contains(&format!("{field} (")), "{name}.{field}: {text}");
                }
            }
        }
    }
    // Nothing of it was run by a shell, and the machine is as it was.
    let left = lab.ok("list_directory", json!({"hidden": true, "depth": 2})).await;
    let paths: Vec<&str> =
        left["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert!(!paths.contains(&"pwned"), "{paths:?}");
    assert_eq!(lab.ok("execute_command", json!({"command": "cat a.txt"})).await["stdout"], "a\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_argument_and_a_missing_tool_are_named_with_what_there_is() {
    let lab = Lab::start("host").await;
    for entry in pvm_tools::entries() {
        let name = entry.definition.name.as_str();
        for required in entry.definition.input_schema["required"].as_array().into_iter().flatten() {
            let field = required.as_str().unwrap();
            let mut arguments = small(name);
            arguments.as_object_mut().unwrap().remove(field);
            let (is_error, text) = answer(&lab, name, &arguments, 5).await;
            assert!(is_error && text.contains(&format!("missing field `{field}`")), "{name}: {text}");
            assert!(text.contains(", required)") && text.contains("correct the call"), "{name}: {text}");
        }
    }
    let (is_error, text) = answer(&lab, "fly\u{0}\u{1b}[2J", &json!({}), 5).await;
    assert!(
        is_error && text.contains("create_development_environment") && !text.contains('\u{1b}'),
        "{text}"
    );
    let (is_error, text) = answer(&lab, "read_file", &json!("{\"path\": \"a.txt\""), 5).await;
    assert!(is_error && text.contains("not a JSON object"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_refused_with_the_way_that_works() {
    let lab = Lab::start("host").await;
    let hundred = "x".repeat(100 * 1024 * 1024);
    for arguments in [
        json!({"path": "big.txt", "content": hundred}),
        json!({"path": "big.txt", "content": hundred, "append": true}),
        json!({"path": "big.bin", "content": hundred, "encoding": "base64"}),
    ] {
        let (is_error, text) = answer(&lab, "write_file", &arguments, 30).await;
        assert!(is_error && text.contains("at most 4 MiB") && text.contains("execute_command"), "{text}");
    }
    let (is_error, text) = answer(&lab, "execute_command", &json!({"command": hundred}), 30).await;
    assert!(is_error && text.contains("command"), "{text}");
    let (is_error, _) =
        answer(&lab, "edit_file", &json!({"path": "a", "old_string": hundred, "new_string": ""}), 30).await;
    assert!(is_error);
    // Such a file itself is no trouble: it is made in the machine and read in parts.
    lab.ok("execute_command", json!({"command": "yes line | head -c 104857600 > big.txt"})).await;
    let out = lab.ok("read_file", json!({"path": "big.txt", "start_line": 2, "end_line": 3})).await;
    assert_eq!(out["content"], "line\nline\n");
    let (is_error, text) =
        answer(&lab, "edit_file", &json!({"path": "big.txt", "old_string": "line", "new_string": "x"}), 30)
            .await;
    assert!(is_error, "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_may_not_touch_stays_as_it_is() {
    let lab = Lab::start("host").await;
    for path in [
        "/proc/sys/kernel/hostname",
        "/sys/x",
        "/dev/sda",
        "/var/lib/pvm/runs/x/stdout",
        "../proc/x",
        "/workspace/../var/lib/pvm/x",
    ] {
        for user in ["user", "root"] {
            let arguments = json!({"path": path, "content": "x", "user": user});
            let (is_error, text) = answer(&lab, "write_file", &arguments, 10).await;
            assert!(
                is_error && text.contains("must not be in") && text.contains("/workspace"),
                "{path}: {text}"
            );
            let edit = json!({"path": path, "old_string": "a", "new_string": "b", "user": user});
            let (is_error, text) = answer(&lab, "edit_file", &edit, 10).await;
            assert!(is_error && text.contains("must not be in"), "{path}: {text}");
        }
    }
    for (tool, arguments) in [
        ("write_file", json!({"path": "/etc/passwd", "content": "x"})),
        ("read_file", json!({"path": "/etc/shadow"})),
        ("list_directory", json!({"path": "/root"})),
    ] {
        let (is_error, text) = answer(&lab, tool, &arguments, 10).await;
        assert!(is_error && text.to_lowercase().contains("permission"), "{tool}: {text}");
    }
    lab.finish().await;
}
