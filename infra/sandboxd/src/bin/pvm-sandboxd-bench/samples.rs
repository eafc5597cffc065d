//! Measured times.

use std::time::Duration;

/// Measured times, in milliseconds.
#[derive(Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }

    pub(super) fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub(super) fn print(&self, name: &str) {
        println!("  {name:<40} {:9.2}   ({:.2})", self.median(), self.at(0.95));
    }

    pub(super) fn print_against(&self, name: &str, baseline: f64) {
        let speed = 100.0 * baseline / self.median();
        println!("  {name:<40} {:9.2}   {speed:.0} % of cp's speed", self.median());
    }
}
