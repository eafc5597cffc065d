//! Errors on the wire: RFC 9457 `application/problem+json`.

use pvm_domain::fair_use::Resource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The media type of an error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error. Clients match on `code`; texts may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The page that explains this code: `/docs/errors/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What kind of error this is, the same at every occurrence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// The stable code.
    pub code: String,
    /// The field that broke a rule, dotted for nested ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The limit of fair use that is reached, such as `commands_per_minute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Resource>,
    /// Names this request in the logs.
    pub request_id: String,
}
