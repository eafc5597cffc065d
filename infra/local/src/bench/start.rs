//! How soon a new install answers.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Instant;

use super::{Bench, baseline};
use crate::child;

/// Starts that are measured: each makes its tables and keys.
const STARTS: usize = 10;

impl Bench {
    /// `pvm serve` in a new state folder, until `/healthz` answers.
    pub(super) async fn starts(&mut self) -> anyhow::Result<()> {
        let (mut times, mut base) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds.min(STARTS) {
            base.push(baseline().await?);
            let home = tempfile::tempdir()?;
            let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            let start = Instant::now();
            let mut child = child::serve()?
                .env("PVM_HOME", home.path().join("state"))
                .env("PVM_HTTP_ADDR", &addr)
                .env("PVM_E2B_ADDR", "127.0.0.1:0")
                .env("PVM_S3_ADDR", "127.0.0.1:0")
                .env("PVM_LOG", "error")
                .stdout(Stdio::null())
                .spawn()?;
            child::until_it_answers(&self.http, &format!("http://{addr}"), &mut child).await?;
            times.push(start.elapsed());
            child::interrupt(&mut child).await?;
        }
        self.report("started in a new state folder until /healthz answers", times, base);
        Ok(())
    }
}
