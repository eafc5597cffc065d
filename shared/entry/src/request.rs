//! Reading requests: ids from the path, typed queries and bodies, conditions. Whatever is wrong is told by field.

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, IF_MATCH};
use lambda_http::{Request, RequestExt};
use percent_encoding::percent_decode_str;
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_application::idempotency::Claim;
use pvm_application::store::Position;
use pvm_domain::ids::PrefixedId;
use pvm_domain::key::Principal;
use pvm_domain::limits;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::signer::Signer;

/// The header that makes a POST safe to repeat.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The id called `name` in the path, such as `project_id`.
///
/// # Errors
/// `not_found` where it is not an id of that kind: nothing can be there.
pub fn path_id<I: PrefixedId>(request: &Request, name: &str) -> AppResult<I> {
    let missing = || AppError::not_found(name.strip_suffix("_id").unwrap_or(name));
    path_text(request, name)?.parse().map_err(|_| missing())
}

/// The text called `name` in the path, decoded.
///
/// # Errors
/// `not_found` where it is not UTF-8.
pub fn path_text(request: &Request, name: &str) -> AppResult<String> {
    let parameters = request.path_parameters_ref();
    let text = parameters.and_then(|all| all.first(name)).unwrap_or_default();
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.is_empty() => Ok(text.into_owned()),
        _ => Err(AppError::not_found(name.strip_suffix("_id").unwrap_or(name))),
    }
}

/// The first value of a header, if it is text.
pub fn header<'a>(request: &'a Request, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The media type of the body, lower case and without parameters; empty where none is named.
pub fn media_type(request: &Request) -> String {
    let text = header(request, &CONTENT_TYPE).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Marks a request whose answer is taken whole, however it was asked for: an event stream would arrive at its end only.
#[derive(Debug, Clone, Copy)]
pub struct TakenWhole;

/// Whether the client asked for an event stream, and can be given one.
pub fn wants_stream(request: &Request) -> bool {
    if request.extensions().get::<TakenWhole>().is_some() {
        return false;
    }
    header(request, &ACCEPT).is_some_and(|accept| {
        accept.split(',').any(|part| part.split(';').next().unwrap_or_default().trim() == "text/event-stream")
    })
}

/// The body as JSON of type `T`; an empty body is an empty object.
///
/// # Errors
/// `bad_request` for broken JSON, `too_large`, `unsupported_media_type`, `invalid` naming the field.
pub fn json<T: DeserializeOwned>(request: &Request) -> AppResult<T> {
    let body: &[u8] = request.body();
    within(body, limits::JSON_BODY_BYTES)?;
    if body.is_empty() {
        return typed(Value::Object(serde_json::Map::new()));
    }
    match media_type(request).as_str() {
        // A missing media type is taken for JSON: there is nothing else it could be here.
        "" | "application/json" => {}
        other if other.ends_with("+json") => {}
        other => {
            let detail = format!("The body is `{other}`; send JSON with `Content-Type: application/json`.");
            return Err(AppError::new(ErrorCode::UnsupportedMedia, detail));
        }
    }
    let value = serde_json::from_slice(body)
        .map_err(|error| AppError::new(ErrorCode::BadRequest, format!("The body is not JSON: {error}.")))?;
    typed(value)
}

/// Refuses a body of more than `most` bytes.
///
/// # Errors
/// `too_large`.
pub fn within(body: &[u8], most: usize) -> AppResult<()> {
    if body.len() <= most { Ok(()) } else { Err(too_large(most)) }
}

/// The error for a body of more than `most` bytes.
pub fn too_large(most: usize) -> AppError {
    let detail = format!("The body has more than {most} bytes; files can be uploaded by a presigned URL.");
    AppError::new(ErrorCode::TooLarge, detail)
}

fn typed<T: DeserializeOwned>(value: Value) -> AppResult<T> {
    if !value.is_object() {
        return Err(AppError::invalid("body", "must be a JSON object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let reason = error.inner().to_string();
        let path = error.path().to_string();
        // The path of a missing field is that of the object that lacks it.
        let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        let field = match (path.as_str(), missing) {
            (".", Some(name)) => name.to_owned(),
            (path, Some(name)) => format!("{path}.{name}"),
            (".", None) => "body".to_owned(),
            (path, None) => path.to_owned(),
        };
        let reason =
            if missing.is_some() { "is missing".to_owned() } else { format!("is not accepted: {reason}") };
        AppError::invalid(field, reason)
    })
}

/// A query whose parameters are all known.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The query of a request that takes the parameters `known`.
    ///
    /// # Errors
    /// `invalid` naming a parameter that is unknown or comes twice.
    pub fn of(request: &Request, known: &[&str]) -> AppResult<Self> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in request.query_string_parameters().iter() {
            if !known.contains(&name) {
                let reason = match known {
                    [] => "is not a query parameter of this route; it takes none".to_owned(),
                    _ => format!("is not a query parameter of this route; it takes {}", known.join(", ")),
                };
                return Err(AppError::invalid(name, reason));
            }
            if found.iter().any(|(other, _)| other == name) {
                return Err(AppError::invalid(name, "must not come twice"));
            }
            found.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(found))
    }

    /// A parameter's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter's number within `range`, where it is given.
    ///
    /// # Errors
    /// `invalid` with the range.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> AppResult<Option<u64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ if *range.end() == u64::MAX => {
                Err(AppError::invalid(name, "must be a whole number, 0 or more"))
            }
            _ => {
                let reason = format!("must be a whole number from {} to {}", range.start(), range.end());
                Err(AppError::invalid(name, reason))
            }
        }
    }
}

/// Which page of a list is asked for.
#[derive(Debug)]
pub struct PageOf {
    /// Entries at most.
    pub limit: u32,
    /// Where the page before ended.
    pub after: Option<Position>,
    listing: String,
}

impl PageOf {
    /// The query's `limit` and `cursor`. The cursor is bound to the caller and the path.
    ///
    /// # Errors
    /// `invalid` naming the parameter.
    pub fn of(request: &Request, signer: &Signer, principal: &Principal) -> AppResult<Self> {
        Self::filtered(request, signer, principal, &[]).map(|(page, _)| page)
    }

    /// The same for a list with the further parameters `filters`, to which the cursor is bound as well.
    ///
    /// # Errors
    /// `invalid` naming the parameter.
    pub fn filtered(
        request: &Request,
        signer: &Signer,
        principal: &Principal,
        filters: &[&str],
    ) -> AppResult<(Self, Query)> {
        let query = Query::of(request, &[&["limit", "cursor"], filters].concat())?;
        let limit = query.number("limit", 1..=u64::from(limits::LIST_MAX))?;
        let mut listing = request.raw_http_path().to_owned();
        for filter in filters {
            listing.push('\n');
            listing.push_str(query.text(filter).unwrap_or_default());
        }
        let after =
            query.text("cursor").map(|cursor| signer.position(principal, &listing, cursor)).transpose()?;
        let limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(limits::LIST_DEFAULT);
        Ok((Self { limit, after, listing }, query))
    }

    /// The cursor of the next page.
    pub fn next(&self, signer: &Signer, principal: &Principal, next: Option<&Position>) -> Option<String> {
        signer.cursor(principal, &self.listing, next)
    }
}

/// The versions that `If-Match` allows; `None` where there is no such condition. A tag that is none of ours matches
/// nothing.
pub fn if_match(request: &Request) -> Option<Vec<u64>> {
    let tags = header(request, &IF_MATCH)?;
    if tags.trim() == "*" {
        return None;
    }
    let version = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').parse().ok();
    Some(tags.split(',').filter_map(version).collect())
}

/// The claim of the request's `Idempotency-Key`, where it has one. `body` is what must be equal at a replay.
///
/// # Errors
/// `bad_request` for a key that is not one.
pub fn claim(request: &Request, principal: &Principal, body: &[u8]) -> AppResult<Option<Claim>> {
    let Some(key) = request.headers().get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    // A value that is not ASCII is refused by the claim's own rule.
    let key = key.to_str().unwrap_or_default();
    let route = format!("{} {}", request.method(), request.raw_http_path());
    Claim::new(&principal.owner, key, &route, body).map(Some)
}

#[cfg(test)]
mod tests {
    use lambda_http::Body;
    use pvm_contracts::projects::CreateProject;
    use pvm_contracts::services::StartService;
    use pvm_domain::ids::ProjectId;

    use super::*;

    fn body(media_type: &str, text: &str) -> Request {
        let request = lambda_http::http::Request::builder().header("content-type", media_type);
        request.body(Body::from(text)).unwrap()
    }

    fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> (u16, Option<String>) {
        let error = json::<T>(&body("application/json", text)).unwrap_err();
        (error.code.status(), error.field)
    }

    #[test]
    fn a_body_is_refused_by_the_field_that_is_wrong() {
        let field = |text: &str| (422, Some(text.to_owned()));
        assert_eq!(refused::<CreateProject>(r#"{"name": 5}"#), field("name"));
        assert_eq!(refused::<CreateProject>(r#"{"name": "a", "nmae": 1}"#), field("nmae"));
        assert_eq!(refused::<CreateProject>("{}"), field("name"));
        assert_eq!(refused::<CreateProject>(""), field("name"));
        assert_eq!(refused::<CreateProject>(r#"{"name": "a", "env": {"A": 1}}"#), field("env.A"));
        assert_eq!(refused::<StartService>(r#"{"name": "a", "command": "b", "port": 70000}"#), field("port"));
        assert_eq!(refused::<StartService>(r#"{"name": "a", "command": "b", "port": -1}"#), field("port"));
        assert_eq!(refused::<CreateProject>("[]"), field("body"));
    }

    #[test]
    fn broken_json_is_told_apart_from_a_wrong_field() {
        assert_eq!(refused::<CreateProject>(r#"{"name": 5"#).0, 400);
        assert_eq!(refused::<CreateProject>(r#"{"name": "a"} x"#).0, 400);
        assert_eq!(refused::<CreateProject>("\u{feff}{}").0, 400);
        assert_eq!(json::<CreateProject>(&body("text/csv", "{}")).unwrap_err().code.status(), 415);
        assert!(json::<CreateProject>(&body("application/json; charset=utf-8", r#"{"name":"a"}"#)).is_ok());
        let long = format!(r#"{{"name": "{}"}}"#, "x".repeat(limits::JSON_BODY_BYTES));
        assert_eq!(refused::<CreateProject>(&long).0, 413);
    }

    fn with_query(query: &str) -> Request {
        let query: lambda_http::aws_lambda_events::query_map::QueryMap = query.parse().unwrap();
        Request::default().with_query_string_parameters(query)
    }

    #[test]
    fn a_query_parameter_is_known_single_and_in_range() {
        let field = |query: &str| Query::of(&with_query(query), &["wait"]).unwrap_err().field.unwrap();
        assert_eq!(field("wiat=1"), "wiat");
        assert_eq!(field("wait=1&wait=2"), "wait");
        let query = Query::of(&with_query("wait=21"), &["wait"]).unwrap();
        assert!(query.number("wait", 0..=20).unwrap_err().detail.contains("from 0 to 20"));
        assert_eq!(
            Query::of(&with_query("wait=20"), &["wait"]).unwrap().number("wait", 0..=20).unwrap(),
            Some(20)
        );
    }

    #[test]
    fn a_path_id_of_another_form_is_not_found() {
        let parameters = std::collections::HashMap::from([("project_id".to_owned(), "nope".to_owned())]);
        let request = Request::default().with_path_parameters(parameters);
        let error = path_id::<ProjectId>(&request, "project_id").unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.detail.contains("project"));
        let parameters = std::collections::HashMap::from([("agent_id".to_owned(), "a%20b".to_owned())]);
        let request = Request::default().with_path_parameters(parameters);
        assert_eq!(path_text(&request, "agent_id").unwrap(), "a b");
    }

    #[test]
    fn if_match_reads_tags_as_clients_write_them() {
        let tagged = |text: &str| {
            let request = lambda_http::http::Request::builder().header("if-match", text);
            if_match(&request.body(Body::Empty).unwrap())
        };
        assert_eq!(tagged("\"3\""), Some(vec![3]));
        assert_eq!(tagged("W/\"3\", \"4\""), Some(vec![3, 4]));
        assert_eq!(tagged("*"), None);
        assert_eq!(tagged("\"abc\""), Some(vec![]));
        assert_eq!(if_match(&Request::default()), None);
    }

    #[test]
    fn a_stream_is_wanted_only_when_named() {
        let accept = |text: &str| {
            wants_stream(
                &lambda_http::http::Request::builder().header("accept", text).body(Body::Empty).unwrap(),
            )
        };
        assert!(accept("text/event-stream") && accept("application/json, text/event-stream;q=0.5"));
        assert!(!accept("*/*") && !accept("application/json"));
        let asked = lambda_http::http::Request::builder().header("accept", "text/event-stream");
        assert!(!wants_stream(&asked.extension(TakenWhole).body(Body::Empty).unwrap()));
    }
}
