//! The MCP server against programs that nobody here wrote: the protocol's conformance suite for both revisions, and the
//! official Python clients of both eras on the real tools of a real sandbox. `scripts/test-tools.sh` installs them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use pvm_tests::api::Api;
use pvm_tests::stack::with_stack;
use tokio::process::Command;

/// A program that this build made beside the test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bin pvm-mcp-stdio --example mcp-conformance` first \
         (make test does)",
        path.display()
    );
    path
}

fn script(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp").join(name);
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn passes(mut command: Command) {
    let out = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
}

/// Runs a driver against a stack of its own, with and without the stdio bridge.
async fn drives(driver: &'static str) {
    with_stack(async move |api: Api| {
        let mut command = script("run.sh");
        command
            .arg(driver)
            .env("PVM_URL", &api.url)
            .env("PVM_API_KEY", &api.key)
            .env("PVM_MCP_STDIO", program("pvm-mcp-stdio"))
            // The drivers speak to this machine alone.
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost");
        passes(command).await;
    })
    .await;
}

#[tokio::test]
async fn the_conformance_suite_passes_for_both_revisions() {
    let mut command = script("conformance.sh");
    command.arg(program("examples/mcp-conformance"));
    passes(command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_of_both_eras_uses_every_kind_of_tool() {
    drives("mcp-2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_of_the_handshake_era_uses_every_kind_of_tool() {
    drives("mcp-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocols_edges_are_held() {
    drives("protocol").await;
}
