use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Envd;

const STAT: &str = "/filesystem.Filesystem/Stat";
const MAKE_DIR: &str = "/filesystem.Filesystem/MakeDir";
const LIST_DIR: &str = "/filesystem.Filesystem/ListDir";
const MOVE: &str = "/filesystem.Filesystem/Move";
const REMOVE: &str = "/filesystem.Filesystem/Remove";
const WATCH_DIR: &str = "/filesystem.Filesystem/WatchDir";

async fn upload(envd: &Envd, path: &str, text: &'static str) {
    let uri = format!(
        "/files?path={}",
        percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC)
    );
    let answer = envd.http(Method::POST, &uri, &[("content-type", "application/octet-stream")], text).await;
    assert_eq!(answer.status, StatusCode::OK);
}

fn paths(listing: &Value) -> Vec<&str> {
    listing["entries"]
        .as_array()
        .map(|entries| entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn an_entry_is_described() {
    let envd = Envd::start();
    let path = envd.path("f.txt");
    upload(&envd, &path, "hello").await;
    let entry = envd.call(STAT, json!({"path": path})).await["entry"].clone();
    assert_eq!(entry["name"], "f.txt");
    assert_eq!(entry["type"], "FILE_TYPE_FILE");
    assert_eq!(entry["path"], path);
    assert_eq!(entry["size"], "5");
    assert_eq!(entry["mode"], 0o644);
    assert_eq!(entry["permissions"], "-rw-r--r--");
    assert_eq!((entry["owner"].as_str(), entry["group"].as_str()), (Some("root"), Some("root")));
    assert!(entry["modifiedTime"].as_str().unwrap().ends_with('Z'));
    assert_eq!(envd.error_code(STAT, json!({"path": envd.path("missing")})).await, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_from_above_leaves_the_kernels_tables_out_and_survives_what_comes_and_goes() {
    let envd = Envd::start();
    let list = envd.call(LIST_DIR, json!({"path": "/", "depth": 2})).await;
    let paths = paths(&list);
    assert!(paths.contains(&"/proc") && !paths.contains(&"/proc/self"), "{} entries", paths.len());
    let of_proc = envd.call(LIST_DIR, json!({"path": "/proc"})).await;
    assert!(self::paths(&of_proc).contains(&"/proc/self"));
    // Processes end while their directories are read.
    let mut started = Vec::new();
    for _ in 0..20 {
        started.push(std::process::Command::new("true").spawn().unwrap());
        envd.call(LIST_DIR, json!({"path": "/proc", "depth": 2})).await;
    }
    for mut child in started {
        child.wait().unwrap();
    }
    // A tree that changes while it is listed.
    let root = envd.path("live");
    let churn = |round: u32| {
        let inner = format!("{root}/{}", round % 50);
        let _ = std::fs::remove_dir_all(&inner);
        std::fs::create_dir_all(format!("{inner}/a/b")).unwrap();
    };
    churn(0);
    let done = AtomicBool::new(false);
    let listings = async {
        for _ in 0..50 {
            envd.call(LIST_DIR, json!({"path": root, "depth": 4})).await;
        }
        done.store(true, Ordering::SeqCst);
    };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            (0..100_000).take_while(|_| !done.load(Ordering::SeqCst)).for_each(churn);
        });
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(listings));
    });
}

#[tokio::test]
async fn directories_are_made_with_parents_once() {
    let envd = Envd::start();
    let path = envd.path("a/b/c");
    let answer = envd.call(MAKE_DIR, json!({"path": path})).await;
    assert_eq!(
        (answer["entry"]["type"].as_str(), answer["entry"]["name"].as_str()),
        (Some("FILE_TYPE_DIRECTORY"), Some("c"))
    );
    assert_eq!(envd.error_code(MAKE_DIR, json!({"path": path})).await, "already_exists");
    let file = envd.path("file");
    upload(&envd, &file, "").await;
    assert_eq!(envd.error_code(MAKE_DIR, json!({"path": file})).await, "invalid_argument");
    assert_eq!(envd.error_code(MAKE_DIR, json!({"path": format!("{file}/x")})).await, "invalid_argument");
}

#[tokio::test]
async fn listings_go_as_deep_as_asked_and_not_through_links() {
    let envd = Envd::start();
    let root = envd.path("root");
    for name in ["b/inner/deep", "a"] {
        upload(&envd, &format!("{root}/{name}"), "x").await;
    }
    symlink(format!("{root}/b"), format!("{root}/link")).unwrap();
    let list = envd.call(LIST_DIR, json!({"path": root})).await;
    let at = |names: &[&str]| names.iter().map(|name| format!("{root}/{name}")).collect::<Vec<_>>();
    assert_eq!(paths(&list), at(&["a", "b", "link"]));
    assert_eq!(list["entries"][2]["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(list["entries"][2]["symlinkTarget"], format!("{root}/b"));
    let list = envd.call(LIST_DIR, json!({"path": root, "depth": 3})).await;
    assert_eq!(paths(&list), at(&["a", "b", "b/inner", "b/inner/deep", "link"]));
    // A link as the root is followed, and its name kept.
    let list = envd.call(LIST_DIR, json!({"path": format!("{root}/link")})).await;
    assert_eq!(paths(&list), at(&["link/inner"]));

    assert_eq!(envd.error_code(LIST_DIR, json!({"path": envd.path("no")})).await, "not_found");
    assert_eq!(envd.error_code(LIST_DIR, json!({"path": format!("{root}/a")})).await, "invalid_argument");
    symlink(format!("{root}/loop"), format!("{root}/loop")).unwrap();
    assert_eq!(
        envd.error_code(LIST_DIR, json!({"path": format!("{root}/loop")})).await,
        "failed_precondition"
    );
}

#[tokio::test]
async fn entries_move_and_are_removed() {
    let envd = Envd::start();
    let (from, to) = (envd.path("from/f"), envd.path("to/new/g"));
    upload(&envd, &from, "x").await;
    let answer = envd.call(MOVE, json!({"source": from, "destination": to})).await;
    assert_eq!(answer["entry"]["path"], to);
    assert_eq!(envd.error_code(MOVE, json!({"source": from, "destination": to})).await, "not_found");
    assert_eq!(envd.call(REMOVE, json!({"path": envd.path("to")})).await, json!({}));
    assert!(!envd.folder.join("to").exists());
    assert_eq!(envd.call(REMOVE, json!({"path": envd.path("to")})).await, json!({}));
    assert_eq!(envd.error_code(REMOVE, json!({"path": "/"})).await, "invalid_argument");
}

#[tokio::test]
async fn moving_to_another_file_system_copies() {
    let envd = Envd::start();
    let from = envd.path("from/f");
    upload(&envd, &from, "data").await;
    let target = tempfile::Builder::new().prefix("envd-move").tempdir_in("/dev/shm").unwrap();
    let to = target.path().join("d").to_string_lossy().into_owned();
    envd.call(MOVE, json!({"source": envd.path("from"), "destination": to})).await;
    assert_eq!(std::fs::read_to_string(target.path().join("d/f")).unwrap(), "data");
    assert!(!envd.folder.join("from").exists());
}

async fn event(messages: &mut crate::harness::Messages) -> (String, String) {
    let message = messages.next().await;
    let event = &message["filesystem"];
    let text = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
    (text("name"), text("type"))
}

#[tokio::test]
async fn an_upload_is_seen_as_create_chmod_write() {
    let envd = Envd::start();
    let watched = envd.path("w");
    envd.call(MAKE_DIR, json!({"path": watched})).await;
    let mut messages = envd.stream(WATCH_DIR, json!({"path": watched})).await;
    assert_eq!(messages.next().await, json!({"start": {}}));
    upload(&envd, &format!("{watched}/f"), "hello").await;
    for kind in ["CREATE", "CHMOD", "WRITE"] {
        assert_eq!(event(&mut messages).await, ("f".to_owned(), format!("EVENT_TYPE_{kind}")));
    }
    envd.call(REMOVE, json!({"path": format!("{watched}/f")})).await;
    assert_eq!(event(&mut messages).await, ("f".to_owned(), "EVENT_TYPE_REMOVE".to_owned()));
}

#[tokio::test]
async fn a_tree_is_watched_with_entries_on_request() {
    let envd = Envd::start();
    let watched = envd.path("w");
    envd.call(MAKE_DIR, json!({"path": format!("{watched}/sub")})).await;
    let body = json!({"path": watched, "recursive": true, "includeEntry": true});
    let mut messages = envd.stream(WATCH_DIR, body).await;
    messages.next().await;
    upload(&envd, &format!("{watched}/sub/f"), "hello").await;
    let message = messages.next().await;
    assert_eq!(message["filesystem"]["name"], "sub/f");
    assert_eq!(message["filesystem"]["entry"]["path"], format!("{watched}/sub/f"));
}

#[tokio::test]
async fn watchers_are_polled_and_removed() {
    let envd = Envd::start();
    let watched = envd.path("w");
    envd.call(MAKE_DIR, json!({"path": watched})).await;
    let watcher = envd.call("/filesystem.Filesystem/CreateWatcher", json!({"path": watched})).await;
    let events = "/filesystem.Filesystem/GetWatcherEvents";
    assert_eq!(envd.call(events, watcher.clone()).await, json!({}));
    upload(&envd, &format!("{watched}/f"), "hello").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let answer = envd.call(events, watcher.clone()).await;
        seen.extend(answer["events"].as_array().cloned().unwrap_or_default());
    }
    let expected: Vec<Value> = ["CREATE", "CHMOD", "WRITE"]
        .iter()
        .map(|kind| json!({"name": "f", "type": format!("EVENT_TYPE_{kind}")}))
        .collect();
    assert_eq!(seen, expected);
    envd.call("/filesystem.Filesystem/RemoveWatcher", watcher.clone()).await;
    assert_eq!(envd.error_code(events, watcher).await, "not_found");
}

#[tokio::test]
async fn only_directories_are_watched() {
    let envd = Envd::start();
    let file = envd.path("f");
    upload(&envd, &file, "").await;
    for (path, code) in [(file, "invalid_argument"), (envd.path("missing"), "not_found")] {
        let end = envd.stream(WATCH_DIR, json!({"path": path})).await.next().await;
        assert_eq!(end["end"]["error"]["code"], code);
        assert_eq!(
            envd.error_code("/filesystem.Filesystem/CreateWatcher", json!({"path": path})).await,
            code
        );
    }
}

#[tokio::test]
async fn a_workspace_is_scanned() {
    let envd = Envd::start();
    let root = envd.path("ws");
    upload(&envd, &format!("{root}/a.txt"), "hello").await;
    upload(&envd, &format!("{root}/node_modules/x"), "x").await;
    let body = json!({"root": root, "defaultIgnores": ["node_modules/"], "hash": true});
    let answer = envd.call("/pvm.Workspace/Scan", body).await;
    assert_eq!(answer["truncated"], false);
    assert_eq!(answer["entries"].as_array().unwrap().len(), 1);
    assert_eq!(answer["entries"][0]["path"], "a.txt");
    assert_eq!(
        answer["entries"][0]["sha256"],
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    assert_eq!(envd.error_code("/pvm.Workspace/Scan", json!({"root": "/no/such"})).await, "not_found");
}
