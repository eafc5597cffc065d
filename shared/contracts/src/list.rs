//! Lists: one page of entries and where the next begins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    /// The page's entries.
    pub items: Vec<T>,
    /// Send it as `cursor` to get the next page; `null` on the last one. Opaque, and good for its caller and list only.
    pub next_cursor: Option<String>,
}
