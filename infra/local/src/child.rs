//! `pvm serve` as a process of its own, for those who measure or show it from outside.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A start takes a second at most; a machine that needs longer than this is in trouble.
const START_WITHIN: Duration = Duration::from_secs(30);
/// Saving and pausing VMs takes its time.
const STOP_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks whether it answers.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// This program with `serve`, killed when the child is dropped.
///
/// # Errors
/// The program's own path is not known.
pub(crate) fn serve() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Whether a server answers at `url`.
pub(crate) async fn answers(http: &reqwest::Client, url: &str) -> bool {
    let asked = http.get(format!("{url}/healthz")).timeout(Duration::from_secs(2)).send().await;
    asked.is_ok_and(|answer| answer.status().is_success())
}

/// Waits until the child answers at `url`.
///
/// # Errors
/// It ended, or needs too long.
pub(crate) async fn until_it_answers(
    http: &reqwest::Client,
    url: &str,
    child: &mut Child,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !answers(http, url).await {
        if let Some(status) = child.try_wait()? {
            bail!("the stack ended at once ({status}); its own message is above");
        }
        if began.elapsed() > START_WITHIN {
            bail!("the stack did not answer within {} s", START_WITHIN.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Ends the child as Ctrl-C would, and waits for its end.
///
/// # Errors
/// It did not end.
pub(crate) async fn interrupt(child: &mut Child) -> anyhow::Result<()> {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
    kill(Pid::from_raw(pid), Signal::SIGINT)?;
    tokio::time::timeout(STOP_WITHIN, child.wait()).await.context("the stack did not stop")??;
    Ok(())
}
