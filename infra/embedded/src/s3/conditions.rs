//! What a request asks for before it is done: conditions on the object, and how its body is checked.

use std::time::SystemTime;

use jiff::Timestamp;
use s3s::dto::{ChecksumAlgorithm, ETag, ETagCondition};
use s3s::{S3Result, s3_error};

use super::store::{Facts, Precondition};

/// A time as s3s has it.
pub(super) fn system(time: Timestamp) -> s3s::dto::Timestamp {
    SystemTime::from(time).into()
}

/// The condition of a write.
pub(super) fn write_precondition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result<Precondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Precondition::Present),
        (Some(ETagCondition::ETag(tag)), None) => Ok(Precondition::Etag(tag.into_value())),
        _ => Err(s3_error!(NotImplemented, "If-None-Match takes only *, and not together with If-Match")),
    }
}

/// The conditions of a read; `NotModified` or `PreconditionFailed` where they do not hold.
pub(super) fn read_conditions(
    facts: &Facts,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    if_modified_since: Option<&s3s::dto::Timestamp>,
    if_unmodified_since: Option<&s3s::dto::Timestamp>,
) -> S3Result<()> {
    let tag = ETag::Strong(facts.etag.clone());
    let is = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.weak_cmp(&tag),
    };
    // HTTP's times have whole seconds.
    let modified = system(Timestamp::from_second(facts.modified.as_second()).unwrap_or(facts.modified));
    match (if_match, if_unmodified_since) {
        (Some(wanted), _) if !is(wanted) => return Err(s3_error!(PreconditionFailed)),
        (None, Some(time)) if modified > *time => return Err(s3_error!(PreconditionFailed)),
        _ => {}
    }
    match (if_none_match, if_modified_since) {
        (Some(unwanted), _) if is(unwanted) => Err(s3_error!(NotModified)),
        (None, Some(time)) if modified <= *time => Err(s3_error!(NotModified)),
        _ => Ok(()),
    }
}

/// The algorithm named for the body, or the one whose checksum is announced for the trailer.
pub(super) fn algorithm(named: Option<&ChecksumAlgorithm>, headers: &http::HeaderMap) -> Option<String> {
    let in_trailer = || {
        let name = headers.get("x-amz-trailer")?.to_str().ok()?;
        Some(name.trim().strip_prefix("x-amz-checksum-")?.to_owned())
    };
    named.map(|named| named.as_str().to_owned()).or_else(in_trailer)
}
