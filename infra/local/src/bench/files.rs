//! Figures of files: a tree of ten thousand small ones saved and restored, and one of a GiB with the memory it takes. Each
//! has a baseline of its own: what the host's own tools take for the same bytes on the same disk.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Bench;

/// Files of the tree, each of 1 KiB.
const FILES: usize = 10_000;
/// Bytes of the large file.
const LARGE: u64 = 1024 * 1024 * 1024;
/// Makes the tree in the folder it is started in.
const TREE: &str = "for d in $(seq 0 99); do mkdir -p d$d; for f in $(seq 0 99); do printf '%1024s' \"$d.$f\" > d$d/f$f; done; done";

impl Bench {
    pub(super) async fn files(&mut self) -> anyhow::Result<()> {
        // First, while the allocator holds no memory of others that a growth could hide in.
        self.large().await?;
        self.tree().await
    }

    async fn tree(&mut self) -> anyhow::Result<()> {
        let host = tempfile::tempdir()?;
        shell(host.path(), &format!("mkdir tree && cd tree && {TREE}")).await?;
        let copied = shell(host.path(), "cp -r tree copy && sync copy/d*/f*").await?;
        let hashed =
            shell(host.path(), "find copy -type f -exec sha256sum {} + > sums && cp -r copy restored")
                .await?;
        let project = self.project().await?;
        self.command(&project, TREE).await?;
        let start = Instant::now();
        let paused = self.post(&format!("{project}/vm/pause"), &json!({})).await?;
        ensure!(paused["vm_status"] == "paused", "{paused}");
        line("10,000 files of 1 KiB saved (baseline: cp -r and sync)", start.elapsed(), copied);
        let url = format!("{}{project}/vm", self.url);
        self.http.delete(url).bearer_auth(&self.key).send().await?.error_for_status()?;
        self.until(&project, "none").await?;
        let start = Instant::now();
        self.post(&format!("{project}/vm/setup"), &json!({})).await?;
        self.until(&project, "active").await?;
        line("10,000 files restored on a new VM (baseline: hash and cp -r)", start.elapsed(), hashed);
        let count = self.command(&project, "find . -type f | wc -l").await?;
        ensure!(count["stdout"] == format!("{FILES}\n"), "{count}");
        Ok(())
    }

    async fn large(&mut self) -> anyhow::Result<()> {
        let host = tempfile::tempdir()?;
        let copied =
            shell(host.path(), "head -c 1G /dev/zero > a && cp a b && sync b && sha256sum b > sum").await?;
        let project = self.project().await?;
        self.command(&project, "true").await?;
        peak_kib()?;
        let before = peak_kib()?;
        let start = Instant::now();
        let made = self.post(&format!("{project}/files"), &json!({"path": "big", "size": LARGE})).await?;
        let (id, upload) = (made["file_id"].as_str().context("no file_id")?, &made["upload"]);
        let piece = bytes::Bytes::from(vec![7; 1024 * 1024]);
        let pieces = (0..LARGE / piece.len() as u64).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
        let mut put = self.http.put(upload["url"].as_str().context("no url")?);
        for (name, value) in upload["headers"].as_object().into_iter().flatten() {
            put = put.header(name, value.as_str().unwrap_or_default());
        }
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        put.body(body).send().await?.error_for_status()?;
        self.synced(&project, id).await?;
        line("1 GiB uploaded and in the VM (baseline: written, copied, hashed)", start.elapsed(), copied);
        let grown = peak_kib()?.saturating_sub(before) / 1024;
        let (whole, name) =
            (LARGE / (1024 * 1024), "memory that it took at most (baseline: the file itself)");
        let ratio = grown as f64 / whole as f64;
        println!(
            "{name:<58} {grown:>5} MiB {whole:>5} MiB {ratio:>8.2}x   (to reach: 64 MiB, sender included)"
        );
        Ok(())
    }

    async fn until(&self, project: &str, state: &str) -> anyhow::Result<()> {
        loop {
            let status: Value = self.get(&format!("{project}/status")).await?;
            ensure!(status["vm_status"] != "failed", "{status}");
            if status["vm_status"] == state {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn line(name: &str, time: Duration, base: Duration) {
    let ratio = time.as_secs_f64() / base.as_secs_f64();
    println!("{name:<58} {:>7.2} s {:>7.2} s {ratio:>8.2}x", time.as_secs_f64(), base.as_secs_f64());
}

async fn shell(folder: &std::path::Path, script: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let status =
        tokio::process::Command::new("bash").args(["-c", script]).current_dir(folder).status().await?;
    ensure!(status.success(), "{script}: {status}");
    Ok(start.elapsed())
}

/// The most memory of this process since the last call, in KiB.
fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    let peak = line.split_whitespace().nth(1).context("no VmHWM")?.parse()?;
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok(peak)
}
