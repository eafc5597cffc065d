//! What an embedded install shows besides the API: its OpenAPI document and the pages of the error codes.

use http::StatusCode;
use pvm_entry::{Reply, reply};

/// The OpenAPI document, as it is checked in.
const OPENAPI: &str = include_str!("../../../openapi.json");

macro_rules! errors {
    ($($code:literal)*) => {
        /// The page of each error code.
        pub(crate) const ERRORS: &[(&str, &str)] = &[
            $(($code, include_str!(concat!("../../../docs/errors/", $code, ".md")))),*
        ];
    };
}

errors! {
    "bad_request" "unauthorized" "forbidden" "not_found" "method_not_allowed" "conflict" "idempotency_mismatch"
    "idempotency_no_replay" "version_mismatch" "too_large" "unsupported_media_type" "invalid" "limit_reached"
    "internal" "vm_failed" "unavailable" "vm_not_ready"
}

/// The page at `path`, if there is one.
pub(crate) fn find(path: &str) -> Option<Reply> {
    if path == "/openapi.json" {
        return Some(reply::bytes(StatusCode::OK, "application/json", OPENAPI));
    }
    let code = path.strip_prefix("/docs/errors/")?;
    let (_, page) = ERRORS.iter().find(|(known, _)| *known == code)?;
    Some(reply::bytes(StatusCode::OK, "text/markdown; charset=utf-8", *page))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pvm_application::error::ErrorCode;

    use super::*;

    #[test]
    fn every_error_code_has_a_page_and_every_page_a_code() {
        let codes: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        let shown: BTreeSet<&str> = ERRORS.iter().map(|(code, _)| *code).collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors");
        let files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let files: BTreeSet<&str> = files.iter().map(|name| name.strip_suffix(".md").unwrap()).collect();
        assert_eq!(codes, shown);
        assert_eq!(codes, files);
    }

    #[test]
    fn a_page_tells_its_status_and_whether_to_retry() {
        for code in ErrorCode::ALL {
            let (_, page) = ERRORS.iter().find(|(known, _)| *known == code.as_str()).unwrap();
            let head = format!("# `{}` ({}): {}\n", code.as_str(), code.status(), code.title());
            assert!(page.starts_with(&head), "{head}");
            assert!(page.contains("## What to do\n") && page.contains("## Is a retry safe?\n"), "{head}");
        }
    }

    #[test]
    fn pages_are_found_by_their_path() {
        assert!(find("/docs/errors/invalid").is_some() && find("/openapi.json").is_some());
        assert!(find("/docs/errors/nope").is_none() && find("/docs/errors/").is_none());
    }
}
