//! `git_operations`, every operation with its options, against a repository on the same machine as the remote.

use serde_json::{Value, json};

use crate::lab::Lab;

/// A lab with a bare repository `remote.git` and a clone `work` of it with one commit.
async fn lab() -> Lab {
    let lab = Lab::start("host").await;
    lab.ok("execute_command", json!({"command": "git init -q --bare -b main remote.git"})).await;
    run(&lab, "init", json!({"path": "seed"})).await;
    write(&lab, "seed/a.txt", "one\n").await;
    run(&lab, "add", json!({"path": "seed"})).await;
    run(&lab, "commit", json!({"path": "seed", "message": "first"})).await;
    run(&lab, "remote", json!({"path": "seed", "url": "/workspace/remote.git"})).await;
    run(&lab, "push", json!({"path": "seed"})).await;
    run(&lab, "clone", json!({"url": "/workspace/remote.git", "path": "work"})).await;
    lab
}

fn with(operation: &str, mut arguments: Value) -> Value {
    arguments["operation"] = json!(operation);
    if operation != "clone" && arguments.get("path").is_none() {
        arguments["path"] = json!("work");
    }
    arguments
}

async fn run(lab: &Lab, operation: &str, arguments: Value) -> Value {
    lab.ok("git_operations", with(operation, arguments)).await
}

async fn fails(lab: &Lab, operation: &str, arguments: Value) -> String {
    lab.fails("git_operations", with(operation, arguments)).await
}

async fn write(lab: &Lab, path: &str, content: &str) {
    lab.ok("write_file", json!({"path": path, "content": content})).await;
}

async fn shell(lab: &Lab, command: &str) -> String {
    let out = lab.ok("execute_command", json!({"command": command, "working_dir": "work"})).await;
    out["stdout"].as_str().unwrap().trim().to_owned()
}

fn names(out: &Value) -> Vec<&str> {
    out["names"].as_array().unwrap().iter().map(|name| name["name"].as_str().unwrap()).collect()
}

fn files<'a>(out: &'a Value, kind: &str) -> Vec<&'a str> {
    out["status"][kind].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect()
}

fn subjects(out: &Value) -> Vec<&str> {
    let commits = out["commits"].as_array().into_iter().flatten();
    commits.map(|commit| commit["subject"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_copied_as_asked_for() {
    let lab = lab().await;
    // Over file:// as over a network: git leaves depth away for plain paths.
    write(&lab, "seed/a.txt", "two\n").await;
    run(&lab, "commit", json!({"path": "seed", "message": "second", "all": true})).await;
    run(&lab, "checkout", json!({"path": "seed", "branch": "dev", "create": true})).await;
    run(&lab, "push", json!({"path": "seed", "branch": "main"})).await;
    run(&lab, "push", json!({"path": "seed", "branch": "dev"})).await;
    let url = "file:///workspace/remote.git";
    let out = run(&lab, "clone", json!({"url": url})).await;
    assert_eq!(out["path"], "/workspace/remote", "named like the repository");
    let out =
        run(&lab, "clone", json!({"repository": url, "path": "thin", "depth": 1, "branch": "dev"})).await;
    assert_eq!(out["success"], true);
    assert_eq!(subjects(&run(&lab, "log", json!({"path": "thin"})).await), ["second"]);
    let status = run(&lab, "status", json!({"path": "thin"})).await;
    assert_eq!(status["status"]["branch"], "dev");
    let text = fails(&lab, "clone", json!({"url": url, "path": "thin"})).await;
    assert!(text.contains("already exists"), "{text}");
    let text = fails(&lab, "clone", json!({"url": "file:///workspace/nowhere.git"})).await;
    assert!(text.contains("exit code 128") && text.contains("nowhere"), "{text}");
    // A name of one's own for the first branch.
    run(&lab, "init", json!({"path": "other", "branch": "trunk"})).await;
    assert_eq!(run(&lab, "status", json!({"path": "other"})).await["status"]["branch"], "trunk");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_staged_recorded_and_compared() {
    let lab = lab().await;
    write(&lab, "work/a.txt", "changed\n").await;
    write(&lab, "work/b c.txt", "b\n").await;
    write(&lab, "work/d.txt", "d\n").await;
    run(&lab, "add", json!({"files": ["b c.txt"]})).await;
    let out = run(&lab, "status", json!({})).await;
    assert_eq!(files(&out, "staged"), ["b c.txt"]);
    assert_eq!((files(&out, "unstaged"), files(&out, "untracked")), (vec!["a.txt"], vec!["d.txt"]));
    assert_eq!((&out["status"]["upstream"], &out["status"]["clean"]), (&json!("origin/main"), &json!(false)));
    let diff = |out: Value| out["output"].as_str().unwrap().to_owned();
    let staged = diff(run(&lab, "diff", json!({"staged": true})).await);
    assert!(staged.contains("b c.txt") && !staged.contains("a.txt"), "{staged}");
    let limited = diff(run(&lab, "diff", json!({"files": ["d.txt"]})).await);
    assert!(!limited.contains("changed"), "{limited}");
    let out = run(&lab, "commit", json!({"message": "only b"})).await;
    assert_eq!((subjects(&out), &out["commits"][0]["author"]), (vec!["only b"], &json!("dev_agent")));
    // One file alone, whatever else is changed; then every tracked file.
    write(&lab, "work/b c.txt", "b2\n").await;
    run(&lab, "commit", json!({"message": "b again", "files": ["b c.txt"]})).await;
    let out = run(&lab, "status", json!({})).await;
    assert_eq!((files(&out, "unstaged"), &out["status"]["ahead"]), (vec!["a.txt"], &json!(2)));
    run(&lab, "commit", json!({"message": "tracked", "all": true})).await;
    let out = run(&lab, "commit", json!({"message": "tracked, said better", "amend": true})).await;
    assert_eq!(subjects(&out), ["tracked, said better"]);
    let out = run(&lab, "log", json!({})).await;
    assert_eq!(subjects(&out), ["tracked, said better", "b again", "only b", "first"]);
    assert_eq!(subjects(&run(&lab, "log", json!({"limit": 1, "ref": "HEAD~1"})).await), ["b again"]);
    assert_eq!(subjects(&run(&lab, "log", json!({"files": ["a.txt"]})).await).len(), 2);
    let since = diff(run(&lab, "diff", json!({"revision": "HEAD~3"})).await);
    assert!(since.contains("+changed") && since.contains("+b2"), "{since}");
    let text = fails(&lab, "commit", json!({"message": "nothing"})).await;
    assert!(text.contains("nothing added to commit") || text.contains("nothing to commit"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_are_made_renamed_merged_and_deleted() {
    let lab = lab().await;
    run(&lab, "branch", json!({"name": "old", "revision": "HEAD"})).await;
    run(&lab, "branch", json!({"action": "rename", "name": "old", "new_name": "new"})).await;
    let out = run(&lab, "branch", json!({})).await;
    assert_eq!(names(&out), ["main", "new"]);
    assert_eq!((&out["names"][0]["current"], out["names"][1].get("current")), (&json!(true), None));
    let all = run(&lab, "branch", json!({"all": true})).await;
    assert!(names(&all).contains(&"origin/main"), "{all}");
    run(&lab, "checkout", json!({"branch": "new"})).await;
    write(&lab, "work/a.txt", "of new\n").await;
    run(&lab, "commit", json!({"message": "new", "all": true})).await;
    run(&lab, "checkout", json!({"branch": "main"})).await;
    write(&lab, "work/a.txt", "of main\n").await;
    run(&lab, "commit", json!({"message": "main", "all": true})).await;
    let text = fails(&lab, "merge", json!({"branch": "new"})).await;
    assert!(text.contains("CONFLICT") && text.contains("a.txt"), "{text}");
    assert_eq!(files(&run(&lab, "status", json!({})).await, "conflicted"), ["a.txt"]);
    run(&lab, "merge", json!({"action": "abort"})).await;
    assert_eq!(run(&lab, "status", json!({})).await["status"]["clean"], true);
    // A file of another branch, and local changes that are thrown away.
    run(&lab, "checkout", json!({"revision": "new", "files": ["a.txt"]})).await;
    assert_eq!(shell(&lab, "cat a.txt").await, "of new");
    run(&lab, "commit", json!({"message": "as new", "all": true})).await;
    run(&lab, "merge", json!({"branch": "new", "message": "join new"})).await;
    assert_eq!(subjects(&run(&lab, "log", json!({"limit": 1})).await), ["join new"]);
    write(&lab, "work/a.txt", "scratch\n").await;
    run(&lab, "checkout", json!({"files": ["a.txt"]})).await;
    write(&lab, "work/a.txt", "scratch\n").await;
    run(&lab, "checkout", json!({"branch": "new", "force": true})).await;
    assert_eq!(shell(&lab, "cat a.txt").await, "of new");
    run(&lab, "checkout", json!({"revision": "HEAD~1"})).await;
    assert!(run(&lab, "status", json!({})).await["status"].get("branch").is_none(), "on no branch");
    run(&lab, "checkout", json!({"name": "side", "create": true, "revision": "main"})).await;
    write(&lab, "work/side.txt", "x\n").await;
    run(&lab, "add", json!({})).await;
    run(&lab, "commit", json!({"message": "side"})).await;
    run(&lab, "checkout", json!({"branch": "main"})).await;
    run(&lab, "branch", json!({"action": "delete", "name": "new"})).await;
    let text = fails(&lab, "branch", json!({"action": "delete", "name": "side"})).await;
    assert!(text.contains("not fully merged"), "{text}");
    run(&lab, "branch", json!({"action": "delete", "name": "side", "force": true})).await;
    assert_eq!(names(&run(&lab, "branch", json!({})).await), ["main"]);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_go_to_the_remote_and_come_from_it() {
    let lab = lab().await;
    write(&lab, "seed/theirs.txt", "t\n").await;
    run(&lab, "add", json!({"path": "seed"})).await;
    run(&lab, "commit", json!({"path": "seed", "message": "theirs"})).await;
    run(&lab, "push", json!({"path": "seed"})).await;
    write(&lab, "work/ours.txt", "o\n").await;
    run(&lab, "add", json!({})).await;
    run(&lab, "commit", json!({"message": "ours"})).await;
    let text = fails(&lab, "push", json!({})).await;
    assert!(text.contains("rejected"), "{text}");
    run(&lab, "pull", json!({"branch": "main", "rebase": true})).await;
    assert_eq!(subjects(&run(&lab, "log", json!({})).await), ["ours", "theirs", "first"]);
    run(&lab, "tag", json!({"name": "v1", "message": "the first"})).await;
    run(&lab, "push", json!({"remote": "origin", "branch": "main", "tags": true})).await;
    run(&lab, "commit", json!({"message": "ours, again", "amend": true})).await;
    fails(&lab, "push", json!({})).await;
    run(&lab, "push", json!({"force": true})).await;
    run(&lab, "pull", json!({"path": "seed", "remote": "origin", "branch": "main"})).await;
    assert_eq!(subjects(&run(&lab, "log", json!({"path": "seed", "limit": 1})).await), ["ours, again"]);
    assert_eq!(shell(&lab, "git ls-remote --tags origin | grep -c refs/tags/v1$").await, "1");

    run(&lab, "remote", json!({"action": "create", "name": "copy", "url": "https://example.com/a.git"}))
        .await;
    let to = json!({"action": "set_url", "remote": "copy", "url": "https://example.com/b.git"});
    run(&lab, "remote", to).await;
    run(&lab, "remote", json!({"action": "rename", "name": "copy", "new_name": "mirror"})).await;
    let out = run(&lab, "remote", json!({"action": "list"})).await;
    assert_eq!(names(&out), ["mirror", "origin"]);
    assert_eq!(out["names"][0]["at"], "https://example.com/b.git");
    run(&lab, "remote", json!({"action": "delete", "name": "mirror"})).await;
    assert_eq!(names(&run(&lab, "remote", json!({})).await), ["origin"]);
    let with_token = json!({"action": "set_url", "url": "https://me:hush@example.com/a.git"});
    let text = fails(&lab, "remote", with_token).await;
    assert!(text.contains("secret of the project") && !text.contains("hush"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_put_aside_and_versions_named() {
    let lab = lab().await;
    write(&lab, "work/a.txt", "half done\n").await;
    write(&lab, "work/new.txt", "new\n").await;
    run(&lab, "stash", json!({"message": "only a", "files": ["a.txt"]})).await;
    assert_eq!(files(&run(&lab, "status", json!({})).await, "untracked"), ["new.txt"]);
    run(&lab, "stash", json!({"action": "save", "message": "the rest"})).await;
    let out = run(&lab, "stash", json!({"action": "list"})).await;
    assert_eq!(names(&out), ["stash@{0}", "stash@{1}"]);
    assert!(out["names"][0]["at"].as_str().unwrap().ends_with("the rest"), "{out}");
    run(&lab, "stash", json!({"action": "apply", "ref": "stash@{1}"})).await;
    assert_eq!(shell(&lab, "cat a.txt").await, "half done");
    run(&lab, "stash", json!({"action": "drop", "ref": "stash@{1}"})).await;
    run(&lab, "stash", json!({"action": "pop"})).await;
    assert_eq!(shell(&lab, "cat new.txt").await, "new");
    assert_eq!(run(&lab, "stash", json!({"action": "list"})).await.get("names"), None);

    run(&lab, "tag", json!({"name": "light"})).await;
    run(&lab, "tag", json!({"name": "v1", "message": "first release", "revision": "HEAD"})).await;
    assert_eq!(shell(&lab, "git cat-file -t v1; git cat-file -t light").await, "tag\ncommit");
    fails(&lab, "tag", json!({"name": "v1"})).await;
    run(&lab, "tag", json!({"name": "v1", "force": true})).await;
    run(&lab, "tag", json!({"action": "delete", "name": "light"})).await;
    assert_eq!(names(&run(&lab, "tag", json!({"action": "list"})).await), ["v1"]);
    let slow = json!({"timeout_secs": 0});
    assert!(fails(&lab, "status", slow).await.contains("1 to 86400"));
    lab.finish().await;
}
