//! Conditional and partial requests: dates, ranges and encodings of `GET /files`.

use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::header::{
    ACCEPT_ENCODING, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    RANGE,
};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

/// Most ranges of one request; with more, the whole file is sent.
const MAX_RANGES: usize = 1000;

/// Bytes from the first to the second number, both included.
pub type Range = (u64, u64);

/// What part of a file to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// One range.
    Range(Range),
    /// Several ranges, as they were asked for.
    Ranges(Vec<Range>),
    /// Nothing in the file was asked for: 416.
    Unsatisfiable,
}

/// What the conditions of a request come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send this.
    Send(Part),
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Judges the conditions for a file of this size and age, as Go's `net/http` does for the official server.
pub fn judge(headers: &HeaderMap, size: u64, modified: SystemTime) -> Verdict {
    let modified = seconds(modified);
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |name| text(name).and_then(parse_date);
    // Files have no tags here, so that none that a client knows fits; `*` fits every file.
    let is_any = |tags: &str| tags.trim_start().starts_with('*');
    let as_before = match text(IF_MATCH) {
        Some(tags) => is_any(tags),
        None => date(IF_UNMODIFIED_SINCE).is_none_or(|limit| modified <= limit),
    };
    if !as_before {
        return Verdict::Failed;
    }
    let known = match text(IF_NONE_MATCH) {
        Some(tags) => is_any(tags),
        None => date(IF_MODIFIED_SINCE).is_some_and(|limit| modified <= limit),
    };
    if known {
        return Verdict::NotModified;
    }
    // A range that is only good for one version of the file.
    let version_fits = !headers.contains_key(IF_RANGE) || date(IF_RANGE) == Some(modified);
    match text(RANGE) {
        Some(range) if version_fits => Verdict::Send(parse_ranges(range, size)),
        _ => Verdict::Send(Part::Whole),
    }
}

/// Whether the request depends on the file's bytes as they are, so that they must not be compressed.
pub fn wants_plain_bytes(headers: &HeaderMap) -> bool {
    [RANGE, IF_MODIFIED_SINCE, IF_RANGE, IF_NONE_MATCH].iter().any(|name| headers.contains_key(name))
}

fn seconds(time: SystemTime) -> i64 {
    Timestamp::try_from(time).map_or(0, Timestamp::as_second)
}

/// A time as HTTP writes it.
pub fn format_date(time: SystemTime) -> Option<String> {
    let time = Timestamp::from_second(seconds(time)).ok()?;
    DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
}

fn parse_date(text: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(text).ok().map(Timestamp::as_second)
}

/// Reads a `Range` header. Ranges outside the file are left out, unless none is left.
fn parse_ranges(text: &str, size: u64) -> Part {
    let Some(specs) = text.strip_prefix("bytes=") else { return Part::Unsatisfiable };
    if size == 0 {
        // Some clients ask for a range whatever they read; there is nothing to leave out.
        return Part::Whole;
    }
    let specs: Vec<&str> = specs.split(',').map(str::trim).filter(|spec| !spec.is_empty()).collect();
    if specs.is_empty() || specs.len() > MAX_RANGES {
        return Part::Whole;
    }
    let Some(ranges) = specs.into_iter().map(|spec| parse_range(spec, size)).collect::<Option<Vec<_>>>()
    else {
        return Part::Unsatisfiable;
    };
    let ranges: Vec<Range> = ranges.into_iter().flatten().collect();
    let asked = ranges.iter().fold(0_u64, |sum, (first, last)| sum.saturating_add(last - first + 1));
    match ranges.as_slice() {
        [] => Part::Unsatisfiable,
        // More than there is, some of it again and again.
        _ if asked > size => Part::Whole,
        [range] => Part::Range(*range),
        _ => Part::Ranges(ranges),
    }
}

/// One range of a file that is not empty: `None` when it is none at all, `Some(None)` when it is outside the file.
fn parse_range(spec: &str, size: u64) -> Option<Option<Range>> {
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    if first.is_empty() {
        // The last so many bytes.
        let length = number(last)?;
        return Some((length > 0).then(|| (size.saturating_sub(length), size - 1)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { size - 1 } else { number(last)? };
    if first >= size {
        return Some(None);
    }
    (first <= last).then(|| Some((first, last.min(size - 1))))
}

/// Encodings of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// Compressed.
    Gzip,
}

/// Picks the encoding that the client likes best; `None` when it takes neither.
pub fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let Some(text) = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else {
        return Some(Encoding::Identity);
    };
    let mut wishes: Vec<(String, f32)> = text.split(',').map(parse_wish).collect();
    let identity_refused = wishes.iter().any(|(name, weight)| name == "identity" && *weight == 0.0);
    // Stable, so that of equals the first named wins.
    wishes.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (name, weight) in &wishes {
        match name.as_str() {
            _ if *weight == 0.0 => {}
            "gzip" => return Some(Encoding::Gzip),
            "*" if identity_refused => return Some(Encoding::Gzip),
            "identity" | "*" => return Some(Encoding::Identity),
            _ => {}
        }
    }
    (!identity_refused).then_some(Encoding::Identity)
}

fn parse_wish(text: &str) -> (String, f32) {
    let mut parts = text.split(';');
    let name = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let weight = parts
        .find_map(|part| {
            part.trim().to_ascii_lowercase().strip_prefix("q=").and_then(|q| q.trim().parse().ok())
        })
        .unwrap_or(1.0);
    (name, weight)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        for (range, part) in [
            ("bytes=0-3", Part::Range((0, 3))),
            ("bytes=8-", Part::Range((8, 9))),
            ("bytes=-4", Part::Range((6, 9))),
            ("bytes=-40", Part::Range((0, 9))),
            ("bytes=5-99", Part::Range((5, 9))),
            ("bytes= 2 - 3 ", Part::Range((2, 3))),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-2", Part::Unsatisfiable),
            ("bytes=0-1,3-2", Part::Unsatisfiable),
            ("bytes=0-1,3-4", Part::Ranges(vec![(0, 1), (3, 4)])),
            ("bytes=3-4, 0-1,,20-30", Part::Ranges(vec![(3, 4), (0, 1)])),
            ("bytes=0-1,20-30", Part::Range((0, 1))),
            ("bytes=0-9,0-9", Part::Whole),
            ("bytes=", Part::Whole),
            ("lines=1-2", Part::Unsatisfiable),
            ("bytes=-", Part::Unsatisfiable),
            ("bytes=+1-2", Part::Unsatisfiable),
        ] {
            assert_eq!(parse_ranges(range, 10), part, "{range}");
        }
        for range in ["bytes=0-", "bytes=-5", "bytes=7-9"] {
            assert_eq!(parse_ranges(range, 0), Part::Whole, "{range} of an empty file");
        }
        let many = format!("bytes={}", "0-0,".repeat(MAX_RANGES + 1));
        assert_eq!(parse_ranges(&many, 1 << 20), Part::Whole);
    }

    #[test]
    fn tags_are_unknown_and_a_star_fits_every_file() {
        let date = format_date(at(1_000)).unwrap();
        for (pairs, verdict) in [
            (vec![("if-none-match", "*")], Verdict::NotModified),
            (vec![("if-none-match", "\"a\"")], Verdict::Send(Part::Whole)),
            // The tag counts, so that the date is not looked at.
            (vec![("if-none-match", "\"a\""), ("if-modified-since", &date)], Verdict::Send(Part::Whole)),
            (vec![("if-match", "*")], Verdict::Send(Part::Whole)),
            (vec![("if-match", "\"a\"")], Verdict::Failed),
        ] {
            assert_eq!(judge(&headers(&pairs), 1, at(1_000)), verdict, "{pairs:?}");
        }
    }

    #[test]
    fn dates_decide_whether_to_send() {
        let date = format_date(at(1_000)).unwrap();
        assert_eq!(date, "Thu, 01 Jan 1970 00:16:40 GMT");
        let since = headers(&[("if-modified-since", &date)]);
        assert_eq!(judge(&since, 1, at(1_000)), Verdict::NotModified);
        assert_eq!(judge(&since, 1, at(1_001)), Verdict::Send(Part::Whole));
        let unless = headers(&[("if-unmodified-since", &date)]);
        assert_eq!(judge(&unless, 1, at(1_001)), Verdict::Failed);
        let range = headers(&[("range", "bytes=0-0"), ("if-range", &date)]);
        assert_eq!(judge(&range, 5, at(1_000)), Verdict::Send(Part::Range((0, 0))));
        assert_eq!(judge(&range, 5, at(1_001)), Verdict::Send(Part::Whole));
    }

    #[test]
    fn gzip_is_used_only_when_asked_for() {
        for (accept, expected) in [
            ("identity", Some(Encoding::Identity)),
            ("gzip, deflate", Some(Encoding::Gzip)),
            ("*", Some(Encoding::Identity)),
            ("gzip;q=0", Some(Encoding::Identity)),
            ("identity;q=0.5, gzip;q=0.4", Some(Encoding::Identity)),
            ("identity;q=0, *", Some(Encoding::Gzip)),
            ("identity;q=0", None),
            ("br", Some(Encoding::Identity)),
        ] {
            assert_eq!(encoding(&headers(&[("accept-encoding", accept)])), expected, "{accept}");
        }
        assert_eq!(encoding(&HeaderMap::new()), Some(Encoding::Identity));
    }
}
