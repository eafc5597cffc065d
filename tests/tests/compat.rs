//! E2B's own clients against our server, see `tests/compat/README.md`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use pvm_sandboxd::{Config, Server, Shutdown, StaticKeys};

const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

/// Starts a server and runs suites against it.
async fn run(what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path().join("state"));
    config.listen.set_port(0);
    config.authenticate = Arc::new(StaticKeys::new([(KEY, "me")]));
    let server = Server::start(config).await.unwrap();
    let url = format!("http://{}", server.address());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/run.sh");
    let output = tokio::process::Command::new(script)
        .arg(what)
        .env("E2B_API_URL", &url)
        .env("E2B_SANDBOX_URL", &url)
        .env("E2B_API_KEY", KEY)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    server.shutdown(Shutdown::KillAll).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_find_what_they_expect() {
    run("core").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: all suites, with template builds and LangChain's"]
async fn the_official_clients_find_all_that_they_expect() {
    run("full").await;
}
