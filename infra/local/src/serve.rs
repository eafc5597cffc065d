//! `pvm serve`: the stack until Ctrl-C.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to the person at the terminal"
)]

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

use anyhow::Context;
use pvm_entry::settings::LogFormat;
use pvm_entry::{Settings, logging};
use pvm_sandboxd::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

use crate::lock::HomeLock;
use crate::stack::{Stack, StackConfig};

/// Runs the stack until SIGINT or SIGTERM, then saves and pauses its VMs.
///
/// # Errors
/// One sentence that says what is in the way and what to do.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    logging::start(&settings)?;
    let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    for name in Settings::unknown(names.iter().map(String::as_str)) {
        tracing::warn!("{name} is not a setting of ours; `pvm settings` lists them");
    }
    // Before anything is started: a Ctrl-C in the middle of it must end cleanly too.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let home = settings.home.clone();
    let format = settings.log_format;
    let stack = Stack::start(StackConfig::new(settings)).await.map_err(|error| explained(&home, error))?;
    if format == LogFormat::Terminal {
        println!("Project VM is running.");
        println!("  API          http://{}   (key in {})", stack.http_addr, home.join("api-key").display());
        println!(
            "  E2B door     http://{}   (key in {})",
            stack.e2b_addr,
            home.join("e2b-api-key").display()
        );
        println!("  file store   http://{}", stack.s3_addr);
        println!("  models       {}", models(&stack.app.models.configured()));
        println!("Ctrl-C saves and pauses the VMs and stops.");
    } else {
        let models = stack.app.models.configured().join(", ");
        tracing::info!(http = %stack.http_addr, e2b = %stack.e2b_addr, s3 = %stack.s3_addr, models, "running");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if std::io::stdout().is_terminal() {
        println!("\nSaving and pausing the VMs (Ctrl-C again leaves them running) ...");
    }
    tokio::select! {
        ended = stack.shutdown(Shutdown::PauseAll) => ended,
        _ = interrupt.recv() => {
            eprintln!("pvm: left at once; VMs go on for a while and are adopted by the next start");
            Ok(())
        }
    }
}

/// A full disk shows in many ways, from many parts; the person at the terminal gets one sentence.
fn explained(home: &Path, error: anyhow::Error) -> anyhow::Error {
    let full = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == ErrorKind::StorageFull)
            // What the databases say has lost its type on the way.
            || ["No space left on device", "disk is full"].iter().any(|text| cause.to_string().contains(text))
    });
    if full {
        anyhow::anyhow!("the disk of {} is full; free some space and start again: {error:#}", home.display())
    } else {
        error
    }
}

/// The providers that can be used; where none has a real model, how to get one.
fn models(configured: &[String]) -> String {
    let names = configured.join(", ");
    if configured.len() > 1 {
        return names;
    }
    format!(
        "{names} (OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY or PVM_BEDROCK_REGION add real ones)"
    )
}

/// Removes the state folder, its VMs included.
///
/// # Errors
/// A server uses it, or it cannot be removed.
pub async fn purge(settings: &Settings) -> anyhow::Result<()> {
    let home = &settings.home;
    if !home.exists() {
        println!("{} is not there; nothing to do", home.display());
        return Ok(());
    }
    let lock = HomeLock::take(home)?;
    let mut config = pvm_sandboxd::Config::new(std::path::absolute(home.join("sandboxes"))?);
    config.listen.set_port(0);
    let server = pvm_sandboxd::Server::start(config).await.context("the VMs cannot be ended")?;
    server.shutdown(Shutdown::KillAll).await;
    drop(lock);
    std::fs::remove_dir_all(home).with_context(|| format!("{} cannot be removed", home.display()))?;
    println!("{} is gone", home.display());
    Ok(())
}
