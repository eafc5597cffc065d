//! Finding a running stack, or starting one for the time of the demo.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use pvm_entry::Settings;
use tokio::process::Child;

use super::Options;
use super::client::Client;
use super::print::{say, step};
use crate::child;

/// A stack to work with.
pub(super) struct Stack {
    pub(super) url: String,
    /// Absent where the demo was not told: the key is then read from the state folder.
    api_key: Option<String>,
    key_file: PathBuf,
    child: Option<Child>,
    is_elsewhere: bool,
}

/// The stack of the options, else the one at the default address, else one that is started here.
///
/// # Errors
/// Says what is missing. A stack that was started is ended then, and also where this is dropped before it is done.
pub(super) async fn find_or_start(options: &Options) -> anyhow::Result<Stack> {
    let settings = Settings::from_env()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut stack = Stack {
        url: format!("http://{}", settings.http_addr),
        api_key: options.api_key.clone(),
        key_file: settings.home.join("api-key"),
        child: None,
        is_elsewhere: options.url.is_some(),
    };
    if let Some(url) = &options.url {
        ensure!(stack.api_key.is_some(), "PVM_URL is set: set PVM_API_KEY too");
        stack.url.clone_from(url);
    } else if child::answers(&http, &stack.url).await {
        step(&format!("Using the stack that runs at {}", stack.url));
    } else {
        step("Starting a stack for the demo (`make run` does the same)");
        stack.child = Some(start(&http, &stack.url).await?);
    }
    Ok(stack)
}

async fn start(http: &reqwest::Client, url: &str) -> anyhow::Result<Child> {
    // A group of its own: Ctrl-C ends the demo, and the demo ends the stack, which takes its time to save.
    let mut child = child::serve()?.process_group(0).spawn().context("cannot start the stack")?;
    child::until_it_answers(http, url, &mut child).await?;
    Ok(child)
}

impl Stack {
    /// A client with the stack's key.
    ///
    /// # Errors
    /// The key cannot be read.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let read = || std::fs::read_to_string(&self.key_file);
        let key = self
            .api_key
            .clone()
            .map_or_else(read, Ok)
            .with_context(|| format!("cannot read {}", self.key_file.display()))?;
        Client::new(&self.url, key.trim())
    }

    /// Waits until the full `base` system is there, which takes about half a minute once; true if VMs of this stack have
    /// it. Without a mirror of Debian's packages VMs have the host's own programs.
    pub(super) async fn has_base(&self) -> bool {
        if self.is_elsewhere {
            return false;
        }
        let show = |progress: &str| say(&format!("  template base: {progress}"));
        match crate::template::ensure("base", None, show).await {
            Ok(()) => true,
            Err(error) => {
                say(&format!(
                    "  The template base cannot be built, so the VM has this machine's programs: {error:#}"
                ));
                false
            }
        }
    }

    /// Leaves everything running.
    pub(super) fn leave(self) {
        if let Some(child) = self.child {
            say(&format!("The stack stays up at {} (process {}).", self.url, child.id().unwrap_or_default()));
            // Dropped, it would be killed.
            std::mem::forget(child);
        }
    }

    /// Ends a stack that was started here, as Ctrl-C would.
    ///
    /// # Errors
    /// It did not end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        match &mut self.child {
            Some(child) => child::interrupt(child).await,
            None => Ok(()),
        }
    }
}
