//! Conditional and partial requests: dates, ranges and encodings of `GET /files`.

use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, IF_MODIFIED_SINCE, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

/// What part of a file to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Bytes from the first to the second number, both included.
    Range(u64, u64),
    /// Nothing in the file was asked for: 416.
    Unsatisfiable,
}

/// What the conditions of a request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send this.
    Send(Part),
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Judges the conditions for a file of this size and age.
pub fn judge(headers: &HeaderMap, size: u64, modified: SystemTime) -> Verdict {
    let modified = seconds(modified);
    let date = |name| headers.get(name).and_then(|value| value.to_str().ok()).and_then(parse_date);
    if date(IF_UNMODIFIED_SINCE).is_some_and(|limit| modified > limit) {
        return Verdict::Failed;
    }
    if date(IF_MODIFIED_SINCE).is_some_and(|limit| modified <= limit) {
        return Verdict::NotModified;
    }
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    // A range that is only good for one version of the file; we have no tags, so a tag never fits.
    let version_fits = !headers.contains_key(IF_RANGE) || date(IF_RANGE) == Some(modified);
    match range {
        Some(range) if version_fits => Verdict::Send(parse_range(range, size)),
        _ => Verdict::Send(Part::Whole),
    }
}

/// Whether the request depends on the file's bytes as they are, so that they must not be compressed.
pub fn wants_plain_bytes(headers: &HeaderMap) -> bool {
    [RANGE, IF_MODIFIED_SINCE, IF_RANGE, hyper::header::IF_NONE_MATCH]
        .iter()
        .any(|name| headers.contains_key(name))
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

/// Reads a `Range` header. What is not one range of bytes is ignored, as the standard allows.
fn parse_range(text: &str, size: u64) -> Part {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    match (first.parse::<u64>(), last.parse::<u64>()) {
        // The last so many bytes.
        (Err(_), Ok(0)) if first.is_empty() => Part::Unsatisfiable,
        (Err(_), Ok(length)) if first.is_empty() && size > 0 => {
            Part::Range(size.saturating_sub(length), size - 1)
        }
        (Err(_), Ok(_)) if first.is_empty() => Part::Unsatisfiable,
        (Ok(start), Err(_)) if last.is_empty() => {
            if start < size {
                Part::Range(start, size - 1)
            } else {
                Part::Unsatisfiable
            }
        }
        (Ok(start), Ok(end)) if start <= end => {
            if start < size {
                Part::Range(start, end.min(size - 1))
            } else {
                Part::Unsatisfiable
            }
        }
        _ => Part::Whole,
    }
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
            ("bytes=0-3", Part::Range(0, 3)),
            ("bytes=8-", Part::Range(8, 9)),
            ("bytes=-4", Part::Range(6, 9)),
            ("bytes=-40", Part::Range(0, 9)),
            ("bytes=5-99", Part::Range(5, 9)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes=-", Part::Whole),
        ] {
            assert_eq!(parse_range(range, 10), part, "{range}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Part::Unsatisfiable);
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
        assert_eq!(judge(&range, 5, at(1_000)), Verdict::Send(Part::Range(0, 0)));
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
