//! What sandboxes use, sampled while they run.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pvm_e2b_wire::control::SandboxMetric;

use super::{Engine, Sandbox};
use crate::clock::timestamp;
use crate::isolation::cgroup::Usage;

/// How often a sample is taken: E2B's own rhythm.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Samples kept for each sandbox: the last half hour.
const SAMPLES_KEPT: usize = 360;
/// How long the first sample of a young sandbox measures CPU use.
const FIRST_SAMPLE: Duration = Duration::from_millis(100);

const MIB: u64 = 1024 * 1024;

/// Bytes that a sandbox uses, as only the server can tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UsageNow {
    /// Of the disk.
    pub(crate) disk: u64,
    /// Of the machine's page cache.
    pub(crate) cache: u64,
}

impl Engine {
    /// Samples all running sandboxes until the server stops.
    pub(crate) async fn sample_continually(self: Arc<Self>) {
        let mut previous = std::collections::HashMap::<String, (Instant, Usage)>::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(SAMPLE_EVERY) => {}
                () = self.stopping.cancelled() => return,
            }
            let mut current = std::collections::HashMap::new();
            for sandbox in self.sandboxes() {
                if sandbox.running().is_none() {
                    continue;
                }
                let Some(group) = sandbox.with(|record| record.group.clone()) else { continue };
                let now = (Instant::now(), group.usage());
                if let Some(before) = previous.get(sandbox.id()) {
                    self.keep(&sandbox, *before, now);
                }
                current.insert(sandbox.id().to_owned(), now);
            }
            previous = current;
        }
    }

    fn keep(&self, sandbox: &Sandbox, before: (Instant, Usage), now: (Instant, Usage)) {
        let metric = self.metric(sandbox, before, now);
        let mut samples = sandbox.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES_KEPT {
            samples.pop_front();
        }
        samples.push_back(metric);
    }

    fn metric(&self, sandbox: &Sandbox, before: (Instant, Usage), now: (Instant, Usage)) -> SandboxMetric {
        let limits = sandbox.with(|record| record.limits);
        let elapsed_us = now.0.duration_since(before.0).as_micros().max(1) as f64;
        let used_us = now.1.cpu_us.saturating_sub(before.1.cpu_us) as f64;
        let percent = 100.0 * used_us / elapsed_us / f64::from(limits.cpu_count.max(1));
        let time = timestamp(self.now_ms());
        SandboxMetric {
            timestamp: time,
            timestamp_unix: time.as_second(),
            cpu_count: limits.cpu_count,
            cpu_used_pct: percent.clamp(0.0, 100.0),
            mem_used: now.1.memory,
            mem_total: limits.memory_mb * MIB,
            mem_cache: now.1.cache,
            disk_used: sandbox.quota.used(),
            disk_total: limits.disk_mb * MIB,
        }
    }

    /// Samples between two times in Unix seconds, both included. A sandbox too young for a sample is measured now.
    pub(crate) async fn metrics(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        start: Option<i64>,
        end: Option<i64>,
    ) -> Vec<SandboxMetric> {
        let empty = sandbox.metrics.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if empty && sandbox.running().is_some() {
            self.measure_now(sandbox).await;
        }
        let disk_used = self.fresh_disk_use(sandbox).await;
        let mut samples = sandbox.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = samples.back_mut() {
            // Samples are taken without looking at the disk, which takes longer.
            latest.disk_used = disk_used;
        }
        samples
            .iter()
            .filter(|sample| start.is_none_or(|start| sample.timestamp_unix >= start))
            .filter(|sample| end.is_none_or(|end| sample.timestamp_unix <= end))
            .cloned()
            .collect()
    }

    /// What of the machine's disk and page cache is the sandbox's.
    pub(crate) async fn usage_now(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> UsageNow {
        let cache = sandbox.with(|record| record.group.as_ref().map_or(0, |group| group.usage().cache));
        UsageNow { disk: self.fresh_disk_use(sandbox).await, cache }
    }

    async fn measure_now(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let Some(group) = sandbox.with(|record| record.group.clone()) else { return };
        let before = (Instant::now(), group.usage());
        tokio::time::sleep(FIRST_SAMPLE).await;
        self.keep(sandbox, before, (Instant::now(), group.usage()));
    }
}
