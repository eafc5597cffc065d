//! What else is taken apart of a request: list queries with their layers of encoding, ranges, encodings, metadata.
#![no_main]

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use pvm_e2b_wire::list_query::{ListQuery, parameters};
use pvm_envd::files::conditions::{Part, Verdict, encoding, judge, wants_plain_bytes};
use pvm_envd::files::metadata;

const NAMES: [&str; 7] = [
    "range",
    "if-range",
    "if-modified-since",
    "if-unmodified-since",
    "accept-encoding",
    "x-metadata-a",
    "x-metadata-b",
];

fuzz_target!(|input: (String, Vec<(u8, String)>, u32, u32)| {
    let (query, fields, size, age) = input;
    for (key, value) in parameters(&query) {
        drop((key, value));
    }
    if let Ok(parsed) = ListQuery::parse(&query) {
        let again = ListQuery::parse(&parsed.to_query_string()).expect("its own text is valid");
        assert_eq!(again.metadata, parsed.metadata);
        assert_eq!((again.states, again.limit, again.template), (parsed.states, parsed.limit, parsed.template));
    }

    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.append(name, value);
        }
    }
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(age));
    if let Verdict::Send(Part::Range(first, last)) = judge(&headers, u64::from(size), modified) {
        assert!(first <= last && last < u64::from(size), "{first}-{last} of {size}");
    }
    encoding(&headers);
    wants_plain_bytes(&headers);
    metadata::from_headers(&headers).ok();
});
