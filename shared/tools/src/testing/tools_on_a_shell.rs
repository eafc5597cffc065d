//! The tools' scripts, run by a real shell on this machine.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pvm_application::ports::VmError;
use pvm_application::ports_tools::{ToolProgress, Tools};
use serde_json::{Value, json};

use super::bench::Bench;
use crate::{catalogue, check_subset};

#[test]
fn every_schema_is_in_the_subset_of_all_providers() {
    for entry in catalogue::entries() {
        let d = &entry.definition;
        check_subset(&d.input_schema, &d.name).unwrap();
        check_subset(&d.output_schema, &format!("{} result", d.name)).unwrap();
        assert_eq!(d.input_schema["additionalProperties"], json!(false), "{}", d.name);
        assert!(
            d.description.len() > 40 && d.description.len() <= 1024,
            "{}: {}",
            d.name,
            d.description.len()
        );
        assert!(!d.read_only || (d.idempotent && !d.destructive && !d.may_change_files), "{}", d.name);
    }
}

#[test]
fn unknown_tools_are_told_and_a_token_sees_what_it_may_use() {
    use pvm_domain::agent::AgentDefinition;
    use pvm_domain::project::Scope;
    let agent: AgentDefinition = serde_json::from_value(
        json!({"agent_id": "a", "tools": ["read_file", "execute_command", "nonsense"], "denied_tools": ["execute_command"]}),
    )
    .unwrap();
    assert_eq!(crate::unknown_tools(&agent), ["nonsense"]);
    let reads: Vec<&str> =
        crate::for_scope(Scope::Read).map(|entry| entry.definition.name.as_str()).collect();
    assert!(reads.contains(&"read_file") && !reads.contains(&"write_file"));
    assert_eq!(crate::for_scope(Scope::Write).count(), catalogue::entries().len());
}

#[test]
fn a_long_tool_has_data_of_its_schema_while_it_runs() {
    let context = super::context("/workspace");
    let args = |name: &str| match name {
        "execute_command" => json!({"command": "x"}),
        "install_package" => json!({"package": "x", "manager": "pip"}),
        "git_operations" => json!({"operation": "pull"}),
        _ => json!({"kind": "node"}),
    };
    for entry in catalogue::entries().iter().filter(|entry| entry.long) {
        let name = &entry.definition.name;
        let data = crate::running(&context, name, &args(name), "so far".into()).unwrap();
        for field in entry.definition.output_schema["required"].as_array().unwrap() {
            assert!(data.get(field.as_str().unwrap()).is_some(), "{name}: {field}");
        }
    }
    assert_eq!(
        crate::watched_arguments(&json!({"command": "x", "stdin": "y", "env": []})),
        json!({"command": "x"})
    );
}

#[tokio::test]
async fn a_command_answers_code_and_both_streams() {
    let mut bench = Bench::new();
    let out = bench
        .ok(
            "execute_command",
            json!({"command": "echo out; echo err >&2; echo $A; cat", "env": ["A=x y"], "stdin": "in"}),
        )
        .await;
    assert_eq!(out["stdout"], "out\nx y\nin");
    assert_eq!((out["stderr"].as_str(), out["exit_code"].as_i64()), (Some("err\n"), Some(0)));
    let text = bench.fails("execute_command", json!({"command": "exit 3"})).await;
    assert!(text.contains("Exit code 3"), "{text}");
    let text = bench.fails("execute_command", json!({"command": "sleep 9", "timeout_secs": 1})).await;
    assert!(text.contains("time limit"), "{text}");
    for bad in [
        json!({"command": ""}),
        json!({"command": "x", "env": ["A"]}),
        json!({"command": "x", "env": ["1=2"]}),
        json!({"command": "x", "working_dir": "/does/not/exist"}),
        json!({"command": "x\u{0}y"}),
    ] {
        bench.fails("execute_command", bad).await;
    }
}

#[tokio::test]
async fn long_output_is_cut_in_the_middle_and_its_file_named() {
    let mut bench = Bench::new();
    let result = bench.call("execute_command", json!({"command": "seq 1 400000"})).await;
    assert!(
        result.text.contains("\n1\n2\n")
            && result.text.contains("400000")
            && result.text.contains("bytes cut")
    );
    let path = result.output_path.unwrap();
    assert!(path.ends_with("/stdout") && result.text.contains(&path));
    let out = result.structured.unwrap();
    assert_eq!(out["truncated"], true);
}

#[tokio::test]
async fn a_background_command_is_looked_at_and_killed() {
    let mut bench = Bench::new();
    let out =
        bench.ok("execute_command", json!({"command": "echo begun; sleep 60", "background": true})).await;
    assert_eq!(out["status"], "running");
    let id = out["command_id"].as_str().unwrap().to_owned();
    let seen = bench.ok("get_command", json!({"command_id": id})).await;
    assert_eq!((seen["stdout"].as_str(), seen["next_offset"].as_u64()), (Some("begun\n"), Some(6)));
    let rest = bench.ok("get_command", json!({"command_id": id, "offset": 6})).await;
    assert_eq!(rest["stdout"], "");
    let killed = bench.ok("kill_command", json!({"command_id": id})).await;
    assert_eq!(killed["status"], "killed");
    bench.fails("get_command", json!({"command_id": "cmd_unknown"})).await;
    bench.fails("get_command", json!({"command_id": "../etc"})).await;
}

#[tokio::test]
async fn a_repeated_call_attaches_and_an_unknown_one_is_never_started_by_a_poll() {
    let mut bench = Bench::new();
    let context = bench.context();
    let args = json!({"command": format!("echo x >> {}; sleep 0.4; echo done", bench.path("n"))});
    let first =
        bench.registry.start(&context, "execute_command", &args, Duration::from_millis(50)).await.unwrap();
    assert!(matches!(first, ToolProgress::Running { .. }));
    let again = bench.registry.start(&context, "execute_command", &args, Duration::ZERO).await.unwrap();
    assert!(matches!(again, ToolProgress::Running { .. }));
    let end = bench.registry.poll(&context, "execute_command", &args, Duration::from_secs(10)).await.unwrap();
    let ToolProgress::Done(result) = end else { panic!("it has ended") };
    assert!(!result.is_error && result.text.contains("done"), "{}", result.text);
    assert_eq!(std::fs::read_to_string(bench.path("n")).unwrap(), "x\n");
    let other = bench.context();
    let lost = bench.registry.poll(&other, "execute_command", &args, Duration::ZERO).await;
    assert!(matches!(lost, Err(VmError::NotFound(_))));
    assert_eq!(*bench.vm.started.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_file_is_written_replaced_and_appended_to() {
    let mut bench = Bench::new();
    let out =
        bench.ok("write_file", json!({"path": "a/b/x.sh", "content": "echo 'é'\n", "mode": "0755"})).await;
    assert_eq!(
        (out["created"].as_bool(), out["size"].as_u64(), out["mode"].as_str()),
        (Some(true), Some(10), Some("0755"))
    );
    let path = bench.path("a/b/x.sh");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "echo 'é'\n");
    let first = out["sha256"].as_str().unwrap().to_owned();
    let out =
        bench.ok("write_file", json!({"path": "a/b/x.sh", "content": "echo 2\n", "if_sha256": first})).await;
    assert_eq!((out["created"].as_bool(), out["mode"].as_str()), (Some(false), Some("0755")));
    let diff = out["diff"].as_str().unwrap();
    assert!(diff.contains("-echo 'é'") && diff.contains("+echo 2"), "{diff}");
    let text =
        bench.fails("write_file", json!({"path": "a/b/x.sh", "content": "3", "if_sha256": first})).await;
    assert!(
        text.contains("somebody changed it") && text.contains("-echo 2") && text.contains("+3"),
        "{text}"
    );
    let text =
        bench.fails("write_file", json!({"path": "a/b/x.sh", "content": "3", "if_sha256": "absent"})).await;
    assert!(text.contains("somebody changed it"), "{text}");
    // The version that the text of a read names is good for a write.
    let read = bench.call("read_file", json!({"path": "a/b/x.sh"})).await.text;
    let version =
        read.lines().next().unwrap().split("version ").nth(1).unwrap().trim_end_matches(')').to_owned();
    bench.ok("write_file", json!({"path": "a/b/x.sh", "content": "echo 2\n", "if_sha256": version})).await;
    let text = bench.fails("write_file", json!({"path": "gone", "content": "3", "if_sha256": version})).await;
    assert!(text.contains("not there any more"), "{text}");
    let out = bench.ok("write_file", json!({"path": "a/b/x.sh", "content": "end", "append": true})).await;
    assert_eq!(out["size"], 10);
    let out = bench.ok("write_file", json!({"path": "a/b/x.sh", "content": "echo 2\nend"})).await;
    assert_eq!(out["changed"], false);
    bench.ok("write_file", json!({"path": "bin", "content": "AAEC/w==", "encoding": "base64"})).await;
    assert_eq!(std::fs::read(bench.path("bin")).unwrap(), [0, 1, 2, 255]);
    std::os::unix::fs::symlink(&path, bench.path("link")).unwrap();
    bench.ok("write_file", json!({"path": "link", "content": "through"})).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "through");
    assert!(std::fs::symlink_metadata(bench.path("link")).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(bench.path("a/b")).unwrap().count(), 1, "no temporary file is left");
}

/// Of all who start from the same version one writes; the others are told. Without a lock several find the version that
/// they name, before the first of them has replaced it.
#[tokio::test]
async fn of_two_writers_of_one_version_one_is_told() {
    let mut bench = Bench::new();
    bench.file("x", "start\n");
    for round in 0..10 {
        let version = bench.ok("read_file", json!({"path": "x"})).await["sha256"].clone();
        let writes: Vec<_> = (0..4)
            .map(|writer| {
                let content = format!("{round} by {writer}\n");
                (bench.context(), json!({"path": "x", "content": content, "if_sha256": version}))
            })
            .collect();
        let results = writes.iter().map(|(context, arguments)| bench.with(context, "write_file", arguments));
        let results = futures::future::join_all(results).await;
        let told: Vec<bool> = results.iter().map(|result| result.is_error).collect();
        assert_eq!(told.iter().filter(|told| !**told).count(), 1, "round {round}: {told:?}");
        let winner = told.iter().position(|told| !told).unwrap();
        assert_eq!(std::fs::read_to_string(bench.path("x")).unwrap(), format!("{round} by {winner}\n"));
        assert!(
            results.iter().filter(|result| result.is_error).all(|r| r.text.contains("somebody changed it"))
        );
    }
}

#[tokio::test]
async fn what_cannot_be_written_says_why() {
    let mut bench = Bench::new();
    std::fs::create_dir(bench.path("dir")).unwrap();
    bench.file("file", "x");
    for (args, why) in [
        (json!({"path": "dir", "content": "x"}), "is a directory"),
        (json!({"path": "file/x", "content": "x"}), "cannot make the directory"),
        (json!({"path": "/proc/x", "content": "x"}), "must not be in /proc"),
        (json!({"path": "x", "content": "a b!", "encoding": "base64"}), "not base64"),
        (json!({"path": "x", "content": "x".repeat(4 * 1024 * 1024 + 1)}), "at most 4 MiB"),
        (json!({"path": "x", "content": "x", "mode": "rwx"}), "octal"),
        (json!({"path": "x"}), "missing field `content`"),
    ] {
        let text = bench.fails("write_file", args).await;
        assert!(text.contains(why), "{text}");
    }
    assert!(!std::path::Path::new(&bench.path("x")).exists());
}

#[tokio::test]
async fn an_edit_happens_once_however_often_it_is_repeated() {
    let mut bench = Bench::new();
    let path = bench.file("a.txt", "one\ntwo\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let context = bench.context();
    let args = json!({"path": "a.txt", "old_string": "one", "new_string": "one one"});
    let first = bench.with(&context, "edit_file", &args).await;
    assert!(!first.is_error, "{}", first.text);
    let again = bench.with(&context, "edit_file", &args).await;
    assert!(!again.is_error && again.text.contains("+one one"), "{}", again.text);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one one\ntwo\n");
    assert_eq!(first.structured.unwrap()["mode"], "0600");
    let text =
        bench.fails("edit_file", json!({"path": "a.txt", "old_string": "one", "new_string": "x"})).await;
    assert!(text.contains("2 times"), "{text}");
    bench
        .ok("edit_file", json!({"path": "a.txt", "old_str": "one", "new_str": "1", "replace_all": true}))
        .await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1 1\ntwo\n");
    assert!(
        bench
            .fails("edit_file", json!({"path": "no", "old_string": "a", "new_string": "b"}))
            .await
            .contains("no file")
    );
    bench.file("bin", [0xff, 0xfe, 0]);
    assert!(
        bench
            .fails("edit_file", json!({"path": "bin", "old_string": "a", "new_string": "b"}))
            .await
            .contains("not a text")
    );
}

#[tokio::test]
async fn a_file_is_read_by_lines_and_bytes() {
    let mut bench = Bench::new();
    let lines: Vec<String> = (1..=20_000).map(|n| format!("line {n}\n")).collect();
    bench.file("long.txt", lines.concat());
    let out = bench.ok("read_file", json!({"path": "long.txt", "start_line": 100, "end_line": 101})).await;
    assert_eq!(out["content"], "line 100\nline 101\n");
    assert_eq!((out["total_lines"].as_u64(), out["truncated"].as_bool()), (Some(20_000), Some(true)));
    let out = bench.ok("read_file", json!({"path": "long.txt"})).await;
    let last = out["end_line"].as_u64().unwrap();
    let next = bench.ok("read_file", json!({"path": "long.txt", "start_line": last + 1})).await;
    assert!(next["content"].as_str().unwrap().starts_with(&format!("line {}\n", last + 1)));
    bench.file("bin", [0, 159, 146, 150]);
    let out = bench.ok("read_file", json!({"path": "bin"})).await;
    assert_eq!((out["encoding"].as_str(), out["content"].as_str()), (Some("base64"), Some("AJ+Slg==")));
    bench.file("big.bin", vec![0; 100_000]);
    assert!(bench.fails("read_file", json!({"path": "big.bin"})).await.contains("not text"));
    bench.file("empty", "");
    let out = bench.ok("read_file", json!({"path": "empty"})).await;
    assert_eq!((out["content"].as_str(), out["total_lines"].as_u64()), (Some(""), Some(0)));
    assert!(bench.fails("read_file", json!({"path": "nope"})).await.contains("no file"));
    assert!(bench.fails("read_file", json!({"path": "."})).await.contains("is a directory"));
    bench.fails("read_file", json!({"path": "empty", "start_line": 0})).await;
}

#[tokio::test]
async fn a_directory_is_listed_with_details_depth_and_glob() {
    let mut bench = Bench::new();
    bench.file("src/app.py", "x");
    bench.file("src/deep/b.py", "xy");
    bench.file(".hidden", "");
    bench.file("README.md", "");
    let paths = |out: &Value| -> Vec<String> {
        out["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&bench.ok("list_directory", json!({})).await), ["README.md", "src"]);
    assert_eq!(
        paths(&bench.ok("list_directory", json!({"hidden": true})).await),
        [".hidden", "README.md", "src"]
    );
    let out = bench.ok("list_directory", json!({"path": "src", "depth": 3, "glob": "*.py"})).await;
    assert_eq!(paths(&out), ["app.py", "deep/b.py"]);
    assert_eq!(out["entries"][1]["size"], 2);
    let out = bench.ok("list_directory", json!({"limit": 1})).await;
    assert_eq!((out["total"].as_u64(), out["truncated"].as_bool()), (Some(2), Some(true)));
    assert!(bench.fails("list_directory", json!({"path": "README.md"})).await.contains("is a file"));
    assert!(bench.fails("list_directory", json!({"path": "nope"})).await.contains("no directory"));
    bench.fails("list_directory", json!({"glob": "["})).await;
}

#[tokio::test]
async fn files_are_searched_by_content_and_name() {
    let mut bench = Bench::new();
    bench.file("src/app.py", "import os\nx = 42\nprint(x)\n");
    bench.file("src/other.txt", "x = 42\n");
    bench.file("node_modules/m/index.js", "x = 42\n");
    bench.file(".git/config", "x = 42\n");
    bench.file("it's \"odd\" $name.py", "x = 42\n");
    let hits = |out: &Value| out["matches"].as_array().unwrap().len();
    let out = bench.ok("search_files", json!({"pattern": r"x = \d+"})).await;
    assert_eq!(hits(&out), 3, "{out}");
    let out = bench.ok("search_files", json!({"pattern": "x = 42", "glob": "*.py", "literal": true})).await;
    assert_eq!(hits(&out), 2);
    for (glob, found) in [("*.{py,txt}", 3), ("*.{txt,md}", 1), ("src/*.{py,txt}", 2)] {
        let out = bench.ok("search_files", json!({"pattern": "x = 42", "glob": glob})).await;
        assert_eq!(hits(&out), found, "{glob}");
    }
    let out = bench
        .ok("search_files", json!({"pattern": "X = 42", "ignore_case": true, "include_ignored": true}))
        .await;
    assert_eq!(hits(&out), 5);
    let out =
        bench.ok("search_files", json!({"pattern": "42", "path": "src/app.py", "context_lines": 1})).await;
    assert_eq!((hits(&out), out["count"].as_u64()), (3, Some(1)));
    assert_eq!(out["matches"][1]["line"], 2);
    let out = bench.ok("search_files", json!({"pattern": "*.py", "search_in": "name"})).await;
    assert_eq!(hits(&out), 2);
    let out = bench.ok("search_files", json!({"pattern": "nothing here"})).await;
    assert_eq!(hits(&out), 0);
    let out = bench.ok("search_files", json!({"pattern": "x", "max_results": 1})).await;
    assert_eq!((hits(&out), out["truncated"].as_bool()), (1, Some(true)));
    assert!(bench.fails("search_files", json!({"pattern": "(unclosed"})).await.contains("search failed"));
    assert!(bench.fails("search_files", json!({"pattern": "x", "path": "nope"})).await.contains("no "));
    let out = bench.ok("search_files", json!({"pattern": "-x '; touch pwned", "literal": true})).await;
    assert_eq!(hits(&out), 0);
    assert!(!std::path::Path::new(&bench.path("pwned")).exists());
}

#[tokio::test]
async fn git_goes_from_init_to_merge_and_clone() {
    let mut bench = Bench::new();
    let git = |mut args: Value, operation: &str| {
        args["operation"] = json!(operation);
        if args.get("path").is_none() {
            args["path"] = json!("repo");
        }
        args
    };
    bench.ok("git_operations", git(json!({}), "init")).await;
    bench.file("repo/a b.txt", "one\n");
    let out = bench.ok("git_operations", git(json!({}), "status")).await;
    assert_eq!(
        (out["status"]["branch"].as_str(), out["status"]["untracked"][0]["path"].as_str()),
        (Some("main"), Some("a b.txt"))
    );
    bench.ok("git_operations", git(json!({}), "add")).await;
    let out = bench.ok("git_operations", git(json!({"message": "first: it's 'quoted'"}), "commit")).await;
    assert_eq!(out["commits"][0]["subject"], "first: it's 'quoted'");
    bench.ok("git_operations", git(json!({"branch": "dev", "create": true}), "checkout")).await;
    bench.file("repo/a b.txt", "one\ntwo\n");
    let out = bench.ok("git_operations", git(json!({}), "diff")).await;
    assert!(out["output"].as_str().unwrap().contains("+two"));
    bench.ok("git_operations", git(json!({"message": "wip"}), "stash")).await;
    let out = bench.ok("git_operations", git(json!({"action": "list"}), "stash")).await;
    assert_eq!(out["names"][0]["name"], "stash@{0}");
    bench.ok("git_operations", git(json!({"action": "pop"}), "stash")).await;
    bench.ok("git_operations", git(json!({"message": "second", "all": true}), "commit")).await;
    bench.ok("git_operations", git(json!({"branch": "main"}), "checkout")).await;
    bench.ok("git_operations", git(json!({"branch": "dev"}), "merge")).await;
    bench.ok("git_operations", git(json!({"name": "v1", "message": "release"}), "tag")).await;
    let out = bench.ok("git_operations", git(json!({}), "tag")).await;
    assert_eq!(out["names"][0]["name"], "v1");
    let out = bench.ok("git_operations", git(json!({}), "branch")).await;
    assert_eq!(out["names"].as_array().unwrap().len(), 2);
    let out = bench.ok("git_operations", git(json!({"depth": 1}), "log")).await;
    assert_eq!(
        (out["commits"].as_array().unwrap().len(), out["commits"][0]["subject"].as_str()),
        (1, Some("second"))
    );
    let source = bench.path("repo");
    let out = bench.ok("git_operations", json!({"operation": "clone", "url": source, "path": "copy"})).await;
    assert!(out["path"].as_str().unwrap().ends_with("/copy"));
    let out = bench.ok("git_operations", git(json!({"path": "copy"}), "remote")).await;
    assert_eq!(out["names"][0]["name"], "origin");
    bench.file("copy/new", "x");
    bench.ok("git_operations", git(json!({"path": "copy"}), "add")).await;
    bench.ok("git_operations", git(json!({"path": "copy", "message": "third"}), "commit")).await;
    bench.ok("git_operations", git(json!({"path": "copy", "branch": "HEAD:refs/heads/new"}), "push")).await;
    bench.ok("git_operations", git(json!({"branch": "new"}), "merge")).await;
    bench.ok("git_operations", git(json!({"path": "copy", "branch": "main"}), "pull")).await;
    assert!(
        bench.fails("git_operations", git(json!({"branch": "nope"}), "checkout")).await.contains("exit code")
    );
    assert!(
        bench.fails("git_operations", git(json!({"path": "nowhere"}), "status")).await.contains("failed")
    );
    assert!(bench.fails("git_operations", json!({"operation": "rebase"})).await.contains("clone|init"));
}

#[tokio::test]
async fn the_machine_is_described() {
    let mut bench = Bench::new();
    let out = bench.ok("get_system_info", json!({"processes": 3})).await;
    assert!(out["cpus"].as_u64().unwrap() >= 1 && out["memory_total_mib"].as_u64().unwrap() > 100);
    assert!(out["processes"].as_array().unwrap().len() <= 3);
    let tools = out["toolchains"].as_array().unwrap();
    assert!(tools.iter().any(|tool| tool["name"] == "git"), "{tools:?}");
    assert!(!out["disks"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn bad_calls_are_results_that_say_what_is_wrong() {
    let mut bench = Bench::new();
    let text = bench.fails("no_such_tool", json!({})).await;
    assert!(text.contains("execute_command"), "{text}");
    for entry in catalogue::entries() {
        for bad in [json!([1, 2]), json!("garbage \u{1} text"), json!({"no_such_field": 1}), json!(7)] {
            let text = bench.fails(&entry.definition.name, bad).await;
            assert!(text.contains("Bad arguments"), "{text}");
        }
    }
    assert_eq!(*bench.vm.started.lock().unwrap(), 0);
}
