//! `read_file`, `write_file`, `edit_file`, `list_directory` and `search_files`, every option.

use serde_json::{Value, json};

use crate::lab::Lab;

fn paths(out: &Value) -> Vec<&str> {
    out["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_in_every_way_and_only_as_the_version_it_was_read_in() {
    let lab = Lab::start("host").await;
    let out =
        lab.ok("write_file", json!({"path": "deep/er/run.sh", "content": "echo 1\n", "mode": "755"})).await;
    assert_eq!(
        (&out["created"], &out["mode"], &out["owner"]),
        (&json!(true), &json!("0755"), &json!("user:user"))
    );
    let first = out["sha256"].as_str().unwrap().to_owned();
    let out =
        lab.ok("write_file", json!({"path": "deep/er/run.sh", "content": "echo 2\n", "append": true})).await;
    assert_eq!((&out["size"], &out["mode"]), (&json!(14), &json!("0755")));
    let out = lab.ok("execute_command", json!({"command": "deep/er/run.sh"})).await;
    assert_eq!(out["stdout"], "1\n2\n");
    let stale = json!({"path": "deep/er/run.sh", "content": "echo 3\n", "if_sha256": first});
    let text = lab.fails("write_file", stale).await;
    assert!(text.contains("somebody changed it") && text.contains("+echo 3"), "{text}");
    let read = lab.ok("read_file", json!({"path": "deep/er/run.sh"})).await;
    let now = json!({"path": "deep/er/run.sh", "content": "echo 3\n", "if_sha256": read["sha256"]});
    lab.ok("write_file", now).await;
    let absent = json!({"path": "deep/er/run.sh", "content": "x", "if_sha256": "absent"});
    assert!(lab.fails("write_file", absent).await.contains("somebody changed it"));
    lab.ok("write_file", json!({"path": "new.txt", "content": "x", "if_sha256": "absent"})).await;

    let bytes = json!({"path": "bytes", "content": "AP8Q\nIA==", "encoding": "base64"});
    assert_eq!(lab.ok("write_file", bytes).await["size"], 4);
    let read = lab.ok("read_file", json!({"path": "bytes"})).await;
    assert_eq!((&read["encoding"], &read["content"]), (&json!("base64"), &json!("AP8QIA==")));
    let text = lab.ok("read_file", json!({"path": "new.txt", "encoding": "base64"})).await;
    assert_eq!((&text["encoding"], &text["content"]), (&json!("base64"), &json!("eA==")));
    let root = json!({"path": "/etc/pvm-test.conf", "content": "a\n", "user": "root", "owner": "root:user", "mode": "640"});
    lab.ok("write_file", root).await;
    assert_eq!(lab.ok("read_file", json!({"path": "/etc/pvm-test.conf"})).await["content"], "a\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_takes_exactly_the_place_that_is_meant() {
    let lab = Lab::start("host").await;
    lab.ok("write_file", json!({"path": "app.py", "content": "x = 1\ny = 1\n", "mode": "600"})).await;
    let edit = |old: &str, new: &str| json!({"path": "app.py", "old_string": old, "new_string": new});
    assert!(lab.fails("edit_file", edit("= 1", "= 2")).await.contains("2 times"));
    assert!(lab.fails("edit_file", edit("z = 1", "z")).await.contains("not"));
    let out = lab.ok("edit_file", edit("x = 1", "x = 5")).await;
    assert_eq!((&out["replacements"], &out["mode"]), (&json!(1), &json!("0600")));
    assert!(out["diff"].as_str().unwrap().contains("+x = 5"));
    let all = json!({"path": "app.py", "old_str": " = ", "new_str": "=", "replace_all": true});
    assert_eq!(lab.ok("edit_file", all).await["replacements"], 2);
    lab.ok("edit_file", edit("y=1\n", "")).await;
    assert_eq!(lab.ok("read_file", json!({"path": "app.py"})).await["content"], "x=5\n");
    let theirs =
        json!({"path": "/etc/hosts", "old_string": "localhost", "new_string": "x", "replace_all": true});
    let text = lab.fails("edit_file", theirs).await;
    assert!(text.to_lowercase().contains("permission"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_in_parts() {
    let lab = Lab::start("host").await;
    lab.ok(
        "execute_command",
        json!({"command": "seq 1 50000 > n.txt; head -c 100000 /dev/zero > z.bin; : > empty"}),
    )
    .await;
    let read = async |arguments: Value| lab.ok("read_file", arguments).await;
    let out = read(json!({"path": "n.txt", "start_line": 7, "end_line": 8})).await;
    assert_eq!((&out["content"], &out["total_lines"]), (&json!("7\n8\n"), &json!(50_000)));
    let out = read(json!({"path": "/workspace/n.txt"})).await;
    let last = out["end_line"].as_u64().unwrap();
    assert!(out["truncated"] == true && last < 50_000 && out["size"] == 288_894, "{last}");
    let next = read(json!({"path": "n.txt", "start_line": last + 1, "end_line": last + 1})).await;
    assert_eq!(next["content"], format!("{}\n", last + 1));
    assert_eq!(read(json!({"path": "empty"})).await["total_lines"], 0);
    assert!(lab.fails("read_file", json!({"path": "z.bin"})).await.contains("100000"));
    assert!(lab.fails("read_file", json!({"path": "."})).await.contains("is a directory"));
    lab.fails("read_file", json!({"path": "n.txt", "start_line": 9, "end_line": 8})).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_listed_as_deep_and_as_selected_as_asked_for() {
    let lab = Lab::start("host").await;
    let make = "mkdir -p src/deep/er .cache; echo xy > src/app.py; echo > src/deep/b.py; echo > src/deep/er/c.ts; \
                echo > .env; echo > .cache/x; ln -s src/app.py link; chmod 640 src/app.py";
    lab.ok("execute_command", json!({"command": make})).await;
    let list = async |arguments: Value| lab.ok("list_directory", arguments).await;
    let out = list(json!({})).await;
    assert_eq!(paths(&out), ["link", "src"]);
    assert_eq!(
        (&out["entries"][0]["type"], &out["entries"][1]["type"]),
        (&json!("symlink"), &json!("directory"))
    );
    assert!(out["entries"][0]["target"].as_str().unwrap().ends_with("src/app.py"), "{out}");
    assert_eq!(paths(&list(json!({"hidden": true})).await), [".cache", ".env", "link", "src"]);
    let out = list(json!({"path": "src", "depth": 2})).await;
    assert_eq!(paths(&out), ["app.py", "deep", "deep/b.py", "deep/er"]);
    let app = &out["entries"][0];
    assert_eq!((&app["size"], &app["mode"], &app["owner"]), (&json!(3), &json!("0640"), &json!("user:user")));
    assert!(app["modified_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(paths(&list(json!({"depth": 8, "glob": "*.py"})).await), ["src/app.py", "src/deep/b.py"]);
    assert_eq!(paths(&list(json!({"depth": 8, "glob": "src/**/*.ts"})).await), ["src/deep/er/c.ts"]);
    let out = list(json!({"depth": 8, "limit": 2})).await;
    assert_eq!((out["entries"].as_array().unwrap().len(), &out["truncated"]), (2, &json!(true)));
    assert!(!paths(&list(json!({"path": "/root", "user": "root", "hidden": true})).await).is_empty());
    for (bad, why) in [
        (json!({"depth": 9}), "1 to 8"),
        (json!({"limit": 0}), "1 to 1000"),
        (json!({"path": "src/app.py"}), "is a file"),
        (json!({"path": "none"}), "no directory"),
        (json!({"glob": "[a"}), "glob"),
    ] {
        let text = lab.fails("list_directory", bad).await;
        assert!(text.contains(why), "{text}");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_found_by_content_and_by_name() {
    let lab = Lab::start("host").await;
    let make = "mkdir -p src node_modules/m .git-x; printf 'import os\\nValue = 42\\nend\\n' > src/app.py; \
                printf 'value = 42\\n' > src/notes.txt; printf 'value = 42\\n' > node_modules/m/i.js; \
                printf 'a.b\\naxb\\n' > dots.txt; printf 'value = 42\\0' > blob.bin; printf 'value = 42\\n' > .hidden";
    lab.ok("execute_command", json!({"command": make})).await;
    let find = async |arguments: Value| lab.ok("search_files", arguments).await;
    let found = |out: &Value| -> Vec<String> {
        let all = out["matches"].as_array().unwrap().iter().filter(|found| found.get("context").is_none());
        all.map(|found| found["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&find(json!({"pattern": r"[vV]alue = \d+\b"})).await), ["src/app.py", "src/notes.txt"]);
    assert_eq!(
        found(&find(json!({"pattern": "VALUE", "ignore_case": true, "glob": "*.txt"})).await),
        ["src/notes.txt"]
    );
    let out = find(json!({"pattern": "a.b", "path": "dots.txt"})).await;
    assert_eq!(out["count"], 2);
    assert_eq!(find(json!({"pattern": "a.b", "path": "dots.txt", "literal": true})).await["count"], 1);
    let out = find(json!({"pattern": "Value", "context_lines": 1})).await;
    let lines: Vec<&Value> = out["matches"].as_array().unwrap().iter().map(|found| &found["line"]).collect();
    assert_eq!((lines, &out["count"]), (vec![&json!(1), &json!(2), &json!(3)], &json!(1)));
    let out = find(json!({"pattern": "value = 42", "include_ignored": true})).await;
    assert_eq!(found(&out), [".hidden", "node_modules/m/i.js", "src/notes.txt"]);
    let out = find(json!({"pattern": "42", "max_results": 1})).await;
    assert_eq!((&out["count"], &out["truncated"]), (&json!(1), &json!(true)));
    let by_name = |pattern: &str| json!({"pattern": pattern, "search_in": "name"});
    assert_eq!(found(&find(by_name("app")).await), ["src/app.py"]);
    assert_eq!(found(&find(by_name("src/**")).await), ["src/app.py", "src/notes.txt"]);
    assert_eq!(found(&find(by_name("node_modules")).await), Vec::<String>::new());
    let all = json!({"pattern": "I.JS", "search_in": "name", "include_ignored": true, "ignore_case": true, "literal": true});
    assert_eq!(found(&find(all).await), ["node_modules/m/i.js"]);
    assert_eq!(find(json!({"pattern": "no such words anywhere"})).await["count"], 0);
    assert!(lab.fails("search_files", json!({"pattern": "(open"})).await.contains("search failed"));
    assert!(
        lab.fails("search_files", json!({"pattern": "x", "path": "none"}))
            .await
            .contains("no /workspace/none")
    );
    lab.finish().await;
}
