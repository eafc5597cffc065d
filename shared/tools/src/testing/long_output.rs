//! What a tool answers when a program prints more than fits.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::bench::Bench;

async fn shell(bench: &mut Bench, script: &str) {
    bench.ok("execute_command", json!({"command": format!("set -e; {script}")})).await;
}

async fn git(bench: &mut Bench, operation: &str, mut arguments: Value) -> (Value, String) {
    arguments["operation"] = json!(operation);
    arguments["path"] = json!("repo");
    let result = bench.call("git_operations", arguments).await;
    assert!(!result.is_error, "{operation}: {}", result.text);
    let data = result.structured.expect("its data fits");
    assert_eq!(data["output_path"].as_str(), result.output_path.as_deref(), "{operation}");
    (data, result.text)
}

async fn repository() -> Bench {
    let mut bench = Bench::new();
    git(&mut bench, "init", json!({})).await;
    bench
}

fn names_its_file((data, text): &(Value, String)) {
    let path = data["output_path"].as_str().unwrap();
    assert!(path.ends_with("/stdout") && text.contains(path), "{text}");
    assert_eq!(data["truncated"], true);
}

#[tokio::test]
async fn a_diff_shows_its_real_end_whether_it_has_kilobytes_or_megabytes() {
    for lines in [6_000, 300_000] {
        let mut bench = repository().await;
        shell(&mut bench, &format!("cd repo; seq 1 {lines} > f; git add -N f")).await;
        let found = git(&mut bench, "diff", json!({})).await;
        names_its_file(&found);
        let output = found.0["output"].as_str().unwrap();
        assert!(output.starts_with("diff --git") && output.contains("bytes cut"), "{lines}");
        assert!(output.ends_with(&format!("+{lines}")), "{lines}: {}", &output[output.len() - 100..]);
        assert_eq!(output.matches("bytes cut").count(), 1, "{lines}");
    }
    let mut bench = repository().await;
    shell(&mut bench, "cd repo; seq 1 100 > f; git add -N f").await;
    let (short, text) = git(&mut bench, "diff", json!({})).await;
    assert_eq!((&short["truncated"], short.get("output_path")), (&json!(false), None));
    assert!(!text.contains("The whole is in"), "{text}");
}

#[tokio::test]
async fn lists_that_do_not_fit_are_cut_and_say_so() {
    let mut bench = repository().await;
    shell(&mut bench, "cd repo; mkdir d; cd d; touch $(seq -f file-with-a-long-name-%06g 1 3000); git add .")
        .await;
    let found = git(&mut bench, "status", json!({})).await;
    names_its_file(&found);
    let staged = found.0["status"]["staged"].as_array().unwrap();
    assert!(staged.len() > 100 && staged.len() < 3000, "{}", staged.len());
    assert_eq!((&found.0["status"]["clean"], &found.0["status"]["branch"]), (&json!(false), &json!("main")));
    assert!(found.0.to_string().len() <= pvm_domain::limits::TOOL_DATA_BYTES);

    // More than is fetched of a run: the last name that was fetched is half a one.
    shell(
        &mut bench,
        "cd repo/d; for i in $(seq 1 10); do touch $(seq -f and-another-long-name-$i-%06g 1 3000); done",
    )
    .await;
    shell(&mut bench, "cd repo; git add .").await;
    let found = git(&mut bench, "status", json!({})).await;
    names_its_file(&found);
    // The commit prints a line for each of them, and is read all the same.
    let found = git(&mut bench, "commit", json!({"message": "many"})).await;
    names_its_file(&found);
    assert_eq!(found.0["commits"][0]["subject"], "many");
    assert!(
        found.0["output"].as_str().unwrap().trim_end().ends_with("file-with-a-long-name-003000"),
        "{}",
        found.1
    );

    shell(&mut bench, "cd repo; for i in $(seq 1 2000); do echo \"create refs/heads/a-branch-with-a-long-name-$i HEAD\"; done | git update-ref --stdin").await;
    let found = git(&mut bench, "branch", json!({})).await;
    names_its_file(&found);
    let names = found.0["names"].as_array().unwrap();
    assert!(names.len() > 50 && names.len() < 2000, "{}", names.len());
}

#[tokio::test]
async fn an_installation_that_fails_shows_its_end_and_where_the_whole_is() {
    let mut bench = Bench::new();
    let python = bench.file("venv/bin/python", "#!/bin/sh\nseq 1 400000; echo the reason; exit 3\n");
    std::fs::set_permissions(python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = json!({"package": "x", "manager": "pip", "virtual_env": "venv"});
    let result = bench.call("install_package", arguments).await;
    assert!(result.is_error && result.text.contains("exit code 3"), "{}", result.text);
    assert!(
        result.text.contains("\n1\n2\n") && result.text.contains("400000\nthe reason"),
        "{}",
        result.text
    );
    let file = result.output_path.unwrap();
    assert!(file.ends_with("/stderr") && result.text.contains(&file), "{}", result.text);
}

#[tokio::test]
async fn searches_and_listings_keep_text_and_data_alike() {
    let mut bench = Bench::new();
    for dir in 0..10 {
        for file in 0..60 {
            bench.file(&format!("a-rather-long-directory-name-{dir}/file-{file}"), "x\nx\n");
        }
    }
    let found = bench.ok("search_files", json!({"pattern": "x", "max_results": 1000})).await;
    assert_eq!(found["truncated"], true);
    assert_eq!(found["count"].as_u64().unwrap(), found["matches"].as_array().unwrap().len() as u64);
    let found = bench.ok("list_directory", json!({"depth": 2, "limit": 1000})).await;
    assert_eq!((&found["truncated"], &found["total"]), (&json!(true), &json!(610)));
}
