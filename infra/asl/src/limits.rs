//! The service limits that the interpreter keeps, so that what runs here also runs on AWS.

/// Largest serialised input, output, task payload or task result of a state, in bytes (256 KiB).
pub const MAX_PAYLOAD_BYTES: usize = 262_144;

/// Most events that one execution may record; AWS fails an execution that would pass it.
pub const MAX_HISTORY_EVENTS: i64 = 25_000;

/// Longest name of a state or an execution, in characters.
pub const MAX_NAME_CHARS: usize = 80;

/// Largest value of any `...Seconds` field, in seconds (a little over three years).
pub const MAX_SECONDS: u64 = 99_999_999;

/// Largest `MaxDelaySeconds` of a retrier, in seconds (366 days).
pub const MAX_RETRY_DELAY_SECONDS: u64 = 31_622_400;

/// Most iterations of an inline Map that run at the same time, whatever `MaxConcurrency` says.
pub const MAX_MAP_CONCURRENCY: usize = 40;

/// Largest request body that the HTTP server reads, in bytes (AWS takes 1 MB).
pub const MAX_REQUEST_BYTES: usize = 1_048_576;

/// Effect-free states (Choice, Pass) that may follow each other before the position is stored again.
/// They cost no effect when repeated, so storing each one would only slow the loop down; the bound keeps
/// a definition that circles through them from never reaching the store (and so the history limit).
pub const MAX_UNSTORED_STATES: usize = 16;

const _: () = assert!(MAX_PAYLOAD_BYTES * 2 < MAX_REQUEST_BYTES, "an escaped payload must fit a request");
const _: () = assert!(MAX_RETRY_DELAY_SECONDS <= MAX_SECONDS);
