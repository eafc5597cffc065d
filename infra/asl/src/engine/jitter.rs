//! The chance in retry delays.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;

/// A number in [0, 1) that depends on the seed and on which retry this is, and on nothing else: not on how
/// many executions run or in which order. So a seeded test gives the same delays every time.
pub(super) fn chance(seed: u64, place: (&str, &str, &str), entered_at: Timestamp, retries: &[u64]) -> f64 {
    let mut hasher = DefaultHasher::new();
    (seed, place, entered_at.as_millisecond(), retries).hash(&mut hasher);
    // 53 bits are what a float can hold exactly.
    const BITS: u32 = 53;
    (hasher.finish() >> (u64::BITS - BITS)) as f64 / (1_u64 << BITS) as f64
}
