//! What the queries of several lists and logs have in common.

use std::collections::BTreeMap;

use http::{HeaderValue, Request, StatusCode};
use pvm_e2b_wire::HEADER_NEXT_TOKEN;
use pvm_e2b_wire::list_query::parameters;
use serde::Serialize;

use super::reply::{Failure, Reply, json};

/// Rows of a page when the request names no number, and the most it can name.
const MAX_ROWS: usize = 100;

/// The parameters of a request; of one that is there twice the last counts.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self::parse(request.uri().query().unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        Self(parameters(text).collect())
    }

    /// A parameter that says something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A whole number, which `what` describes to who sends another thing.
    pub(super) fn number(&self, name: &str, what: &str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Failure::bad_request(format!("{name} must be {what}")))
    }

    /// How many rows to answer: `limit`, or the most there may be.
    pub(super) fn limit(&self, most: usize) -> Result<usize, Failure> {
        let Some(text) = self.0.get("limit") else { return Ok(most) };
        let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| Failure::bad_request(format!("limit must be 1 to {most}")))
    }
}

/// The part of a log that a request asks for: from a cursor in Unix milliseconds on, forwards or backwards.
#[derive(Debug)]
pub(super) struct Span {
    limit: usize,
    cursor: Option<i64>,
    is_backward: bool,
}

impl Span {
    /// Reads `limit`, `cursor` (or, as older clients call it, `start`) and `direction`.
    pub(super) fn of(query: &Query, most: usize) -> Result<Self, Failure> {
        let cursor = match query.number("cursor", "Unix milliseconds")? {
            None => query.number("start", "Unix milliseconds")?,
            cursor => cursor,
        };
        let is_backward = query.get("direction") == Some("backward");
        Ok(Self { limit: query.limit(most)?, cursor, is_backward })
    }

    /// Picks lines, which come in order; `at` tells the time of one.
    pub(super) fn pick<T>(
        &self,
        lines: impl DoubleEndedIterator<Item = T>,
        at: impl Fn(&T) -> i64,
    ) -> Vec<T> {
        let (cursor, limit) = (self.cursor, self.limit);
        if self.is_backward {
            lines.rev().filter(|line| cursor.is_none_or(|cursor| at(line) <= cursor)).take(limit).collect()
        } else {
            lines.filter(|line| cursor.is_none_or(|cursor| at(line) >= cursor)).take(limit).collect()
        }
    }
}

/// One page of what was found, with the id of its last row as the token of the next page.
pub(super) fn page<T, R: Serialize>(
    mut found: Vec<T>,
    query: &Query,
    id: impl Fn(&T) -> &str,
    row: impl Fn(&T) -> R,
) -> Reply {
    let limit = query.limit(MAX_ROWS)?;
    if let Some(after) = query.get("nextToken") {
        let place = found.iter().position(|item| id(item) == after);
        let place =
            place.ok_or_else(|| Failure::bad_request("nextToken is not one that this server gave out"))?;
        found.drain(..=place);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let mut response = json(StatusCode::OK, &found.iter().map(row).collect::<Vec<_>>());
    if more
        && let Some(last) = found.last()
        && let Ok(token) = HeaderValue::from_str(id(last))
    {
        response.headers_mut().insert(HEADER_NEXT_TOKEN, token);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_picked_from_either_end() {
        for (query, expected) in [
            ("", vec![10, 20, 30, 40]),
            ("limit=2", vec![10, 20]),
            ("cursor=20", vec![20, 30, 40]),
            ("start=20&limit=1", vec![20]),
            ("direction=backward&limit=2", vec![40, 30]),
            ("direction=backward&cursor=30", vec![30, 20, 10]),
        ] {
            let span = Span::of(&Query::parse(query), 4).unwrap();
            assert_eq!(span.pick([10, 20, 30, 40].into_iter(), |at| *at), expected, "{query}");
        }
        for query in ["limit=0", "limit=5", "limit=x", "limit=", "cursor=x"] {
            assert!(Span::of(&Query::parse(query), 4).is_err(), "{query}");
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let rows = || (0..250).map(|number| number.to_string()).collect::<Vec<_>>();
        let get = |query: &str| page(rows(), &Query::parse(query), |row| row.as_str(), String::clone);
        let token = |query: &str| {
            let headers = get(query).unwrap().into_parts().0.headers;
            headers.get(HEADER_NEXT_TOKEN).map(|token| token.to_str().unwrap().to_owned())
        };
        assert_eq!(token("").as_deref(), Some("99"));
        assert_eq!(token("limit=10&nextToken=99").as_deref(), Some("109"));
        assert_eq!(token("nextToken=149"), None);
        assert!(get("nextToken=x").is_err());
    }
}
