//! Id ranges: every sandbox has 65,536 user and group ids of the host for itself, so that a file or process of
//! one is a stranger's to every other and to the host.

use std::collections::BTreeSet;

/// Ids per sandbox: what Linux distributions use below `nobody`.
pub(crate) const RANGE_LEN: u32 = 65_536;
/// First id of range 0. Far above people, services, subuid ranges and systemd's own containers.
const FIRST_ID: u32 = 0x1000_0000;
/// How many ranges there are: up to half of the 32-bit space.
pub(crate) const RANGES: u32 = (0x8000_0000 - FIRST_ID) / RANGE_LEN;

/// One sandbox's range, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct IdRange(u32);

impl IdRange {
    /// The host's id for id 0 inside.
    pub(crate) fn base(self) -> u32 {
        FIRST_ID + self.0 * RANGE_LEN
    }

    /// Contents of `uid_map` and `gid_map`.
    pub(crate) fn map(self) -> String {
        format!("0 {} {RANGE_LEN}\n", self.base())
    }
}

/// Which ranges are in use. Rebuilt from the sandboxes' records at start, so nothing else has to be stored.
#[derive(Debug, Default)]
pub(crate) struct IdRanges(BTreeSet<IdRange>);

impl IdRanges {
    /// The lowest free range.
    pub(crate) fn take(&mut self) -> Option<IdRange> {
        let range = (0..RANGES).map(IdRange).find(|range| !self.0.contains(range))?;
        self.0.insert(range);
        Some(range)
    }

    /// Marks a range of an existing sandbox; false when another has it.
    pub(crate) fn mark(&mut self, range: IdRange) -> bool {
        self.0.insert(range)
    }

    /// Gives a range back once nothing of its sandbox is left.
    pub(crate) fn release(&mut self, range: IdRange) {
        self.0.remove(&range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_distinct_and_reused_after_release() {
        let mut ranges = IdRanges::default();
        let (first, second) = (ranges.take().unwrap(), ranges.take().unwrap());
        assert_eq!(second.base() - first.base(), RANGE_LEN);
        ranges.release(first);
        assert_eq!(ranges.take().unwrap(), first);
        assert!(!ranges.mark(second));
    }

    #[test]
    fn the_last_range_ends_inside_the_id_space() {
        let last = IdRange(RANGES - 1);
        assert!(last.base().checked_add(RANGE_LEN).is_some());
        assert_eq!(last.map(), format!("0 {} 65536\n", last.base()));
    }
}
