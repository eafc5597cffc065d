//! How soon a new install answers.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::{Bench, baseline};

/// Starts that are measured: each makes its tables and keys.
const STARTS: usize = 10;
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl Bench {
    /// `pvm serve` in a new state folder, until `/healthz` answers.
    pub(super) async fn starts(&mut self) -> anyhow::Result<()> {
        let (mut times, mut base) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds.min(STARTS) {
            base.push(baseline().await?);
            let home = tempfile::tempdir()?;
            let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            let start = Instant::now();
            let mut child = Command::new(std::env::current_exe()?)
                .arg("serve")
                .env("PVM_HOME", home.path().join("state"))
                .env("PVM_HTTP_ADDR", &addr)
                .env("PVM_E2B_ADDR", "127.0.0.1:0")
                .env("PVM_S3_ADDR", "127.0.0.1:0")
                .env("PVM_LOG", "error")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()?;
            self.answers(&addr, &mut child).await?;
            times.push(start.elapsed());
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("the program has ended")?;
            kill(Pid::from_raw(pid), Signal::SIGINT)?;
            child.wait().await?;
        }
        self.report("started in a new state folder until /healthz answers", times, base);
        Ok(())
    }

    async fn answers(&self, addr: &str, child: &mut Child) -> anyhow::Result<()> {
        loop {
            let answer = self.http.get(format!("http://{addr}/healthz")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                bail!("the program ended at once ({status})");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
