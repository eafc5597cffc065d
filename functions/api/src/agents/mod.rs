//! Agent definitions.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

/// The one version that `If-Match` names, as the use cases take it; 0, which no version has, where it names none.
fn only(seen: Option<Vec<u64>>) -> Option<u64> {
    seen.map(|versions| versions.first().copied().unwrap_or(0))
}
