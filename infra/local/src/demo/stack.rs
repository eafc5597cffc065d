//! Finding a running stack, or starting one for the time of the demo.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use pvm_entry::Settings;
use tokio::process::{Child, Command};

use super::Options;
use super::print::{say, step};

/// A stack to work with.
pub(super) struct Stack {
    pub(super) url: String,
    pub(super) api_key: String,
    child: Option<Child>,
}

/// The stack of the options, else the one at the default address, else one that is started here.
///
/// # Errors
/// Says what is missing.
pub(super) async fn find_or_start(options: &Options) -> anyhow::Result<Stack> {
    let settings = Settings::from_env()?;
    if let Some(url) = &options.url {
        let api_key = options.api_key.clone().context("PVM_URL is set: set PVM_API_KEY too")?;
        return Ok(Stack { url: url.clone(), api_key, child: None });
    }
    let url = format!("http://{}", settings.http_addr);
    let key_file = settings.home.join("api-key");
    let read_key = || -> anyhow::Result<String> {
        let text = std::fs::read_to_string(&key_file)
            .with_context(|| format!("cannot read {}", key_file.display()))?;
        Ok(text.trim().to_owned())
    };
    let mut child = None;
    if healthy(&url).await {
        step(&format!("Using the stack that runs at {url}"));
    } else {
        step("Starting a stack for the demo (`make run` does the same)");
        child = Some(start(&url).await?);
    }
    let api_key = options.api_key.clone().map_or_else(read_key, Ok)?;
    let stack = Stack { url, api_key, child };
    wait_for_template().await?;
    Ok(stack)
}

async fn healthy(url: &str) -> bool {
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build() else {
        return false;
    };
    client.get(format!("{url}/healthz")).send().await.is_ok_and(|answer| answer.status().is_success())
}

async fn start(url: &str) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?;
    // A group of its own, so that Ctrl-C ends the demo first and the demo ends the stack.
    let mut child = Command::new(program)
        .arg("serve")
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .context("cannot start the stack")?;
    let began = Instant::now();
    loop {
        if healthy(url).await {
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the stack ended at once ({status}); its own message is above");
        }
        if began.elapsed() > Duration::from_secs(30) {
            child.start_kill()?;
            bail!("the stack did not answer within 30 s");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The demo wants the full `base` system; building it once takes about half a minute.
async fn wait_for_template() -> anyhow::Result<()> {
    crate::template::ensure("base", None, |progress| say(&format!("  template base: {progress}"))).await
}

impl Stack {
    /// Leaves everything running.
    pub(super) fn leave(self) {
        if let Some(child) = &self.child {
            say(&format!("The stack stays up at {} (process {}).", self.url, child.id().unwrap_or_default()));
        }
    }

    /// Ends a stack that was started here, as Ctrl-C would.
    ///
    /// # Errors
    /// It did not end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT)?;
        tokio::time::timeout(Duration::from_mins(1), child.wait())
            .await
            .context("the stack did not stop")??;
        Ok(())
    }
}
