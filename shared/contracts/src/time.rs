//! How times look on the wire: RFC 3339 in UTC, such as `2026-01-31T12:00:00Z`.

use schemars::{Schema, SchemaGenerator, json_schema};

/// The schema of a time.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// The schema of a time that may be absent.
pub(crate) fn time_or_null(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "format": "date-time"})
}
