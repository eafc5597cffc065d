//! Providers behind HTTP: where they are, how they are called, and what their errors mean.

use std::fmt;
use std::time::Duration;

use pvm_application::ports_model::ModelError;
use serde_json::Value;

/// Connecting takes this long at most.
const CONNECT: Duration = Duration::from_secs(5);
/// A stream without a byte for this long has stalled. Models that think before they speak send pings meanwhile.
pub(crate) const SILENCE: Duration = Duration::from_mins(2);
/// The most of an error's body that is read, in bytes.
const ERROR_BYTES: usize = 64 * 1024;
/// The most of an answer's text or arguments that is taken, in bytes: more is a model that has lost its way.
pub(crate) const ANSWER_BYTES: usize = 1024 * 1024;

/// A key. Does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderKey(String);

impl ProviderKey {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProviderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProviderKey([redacted])")
    }
}

/// A URL that no provider can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadEndpoint(String);

/// A client for `base_url`. Loopback is never asked for through a proxy.
pub(crate) fn client(base_url: &str) -> Result<reqwest::Client, BadEndpoint> {
    let url = reqwest::Url::parse(base_url).map_err(|error| BadEndpoint(format!("{base_url}: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
        return Err(BadEndpoint(format!("{base_url}: must begin with http:// or https://")));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
    if is_loopback {
        builder = builder.no_proxy();
    }
    // A redirect would send the key to another host.
    let builder = builder.redirect(reqwest::redirect::Policy::none());
    builder.build().map_err(|error| BadEndpoint(format!("{base_url}: {error}")))
}

/// `<base>/<path>`, however the base ends.
pub(crate) fn join(base_url: &str, path: &str) -> String {
    format!("{}/{path}", base_url.trim_end_matches('/'))
}

/// Sends a request; an answer other than 2xx is an error by what `read` makes of its body.
pub(crate) async fn send(
    provider: &str,
    request: reqwest::RequestBuilder,
) -> Result<reqwest::Response, ModelError> {
    let response = request.send().await.map_err(|error| unreachable(provider, &error))?;
    let status = response.status().as_u16();
    if response.status().is_success() {
        return Ok(response);
    }
    let hints = Hints::read(|name| response.headers().get(name)?.to_str().ok());
    let body = error_body(response).await;
    Err(refused(provider, status, hints, &body))
}

/// How long a question that is only asked to be helpful may take.
const QUESTION: Duration = Duration::from_secs(2);

/// Whether a provider that is asked for a model says that there is none. Servers that do not know the question answer 404
/// too: only one that speaks of the model counts.
pub(crate) async fn denies(request: reqwest::RequestBuilder) -> Option<String> {
    let response = request.timeout(QUESTION).send().await.ok()?;
    if response.status().as_u16() != 404 {
        return None;
    }
    let body = error_body(response).await;
    let told = told(&serde_json::from_str(&body).ok()?);
    let is_about_it = told.code == "model_not_found"
        || (told.kind == "not_found_error" && told.message.to_ascii_lowercase().contains("model"));
    is_about_it.then(|| told.shown())
}

/// `<base>/<path>/<model>`, whatever the model is called.
pub(crate) fn model_url(base_url: &str, path: &str, model: &str) -> Option<reqwest::Url> {
    let mut url = reqwest::Url::parse(&join(base_url, path)).ok()?;
    url.path_segments_mut().ok()?.push(model);
    Some(url)
}

/// An endpoint that cannot be reached may be so for a moment only.
fn unreachable(provider: &str, error: &reqwest::Error) -> ModelError {
    // The URL stays out of the log: some carry keys.
    tracing::warn!(provider, is_connect = error.is_connect(), is_timeout = error.is_timeout(), "no answer");
    ModelError::Overloaded { retry_after: None }
}

async fn error_body(mut response: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ERROR_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error as told by any of the providers: `{"error": {"message", "type", "code"}}`.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) message: String,
    pub(crate) kind: String,
    pub(crate) code: String,
}

impl Told {
    /// An error of which only the text is known.
    pub(crate) fn new(message: &str) -> Self {
        Self { message: message.to_owned(), ..Self::default() }
    }

    /// Its text, short enough for a record.
    pub(crate) fn shown(&self) -> String {
        pvm_domain::text::head_and_tail(self.message.trim(), 500).0
    }
}

pub(crate) fn told(body: &Value) -> Told {
    let error = body.get("error").unwrap_or(body);
    let text = |name: &str| match error.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let message = match error {
        Value::String(text) => text.clone(),
        _ => text("message"),
    };
    Told { message, kind: text("type"), code: text("code") }
}

/// What the headers of an error say of trying again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hints {
    /// When the provider wants us back.
    pub(crate) retry_after: Option<Duration>,
    /// Whether it wants us back at all.
    should_retry: Option<bool>,
}

impl Hints {
    /// Reads `x-should-retry`, and `retry-after-ms` or `retry-after`, in seconds or as a date. A date is counted from that
    /// of the answer: both are of the same clock, which need not agree with ours.
    pub(crate) fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |name: &str| header(name)?.trim().parse::<f64>().ok();
        let date = |name: &str| jiff::fmt::rfc2822::parse(header(name)?.trim()).ok();
        let until = || Some(date("retry-after")?.timestamp().duration_since(date("date")?.timestamp()));
        let secs = number("retry-after-ms").map(|millis| millis / 1000.0);
        let secs = secs.or_else(|| number("retry-after")).or_else(|| Some(until()?.as_secs_f64()));
        let should_retry = match header("x-should-retry") {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let secs = secs.filter(|secs| (0.0..=86_400.0).contains(secs));
        Self { retry_after: secs.map(Duration::from_secs_f64), should_retry }
    }
}

/// What an answer other than 2xx means.
pub(crate) fn refused(provider: &str, status: u16, hints: Hints, body: &str) -> ModelError {
    let json = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    let told = told(&json);
    let shown = told.shown();
    let Hints { retry_after, should_retry } = hints;
    match status {
        _ if is_overflow(&told) || status == 413 => ModelError::ContextOverflow,
        401 | 403 => ModelError::NotConfigured(format!("{provider} does not accept the key: {shown}")),
        402 => ModelError::NotConfigured(format!("{provider} asks for payment: {shown}")),
        404 => ModelError::NotConfigured(format!("{provider} does not know the model: {shown}")),
        429 if told.code == "insufficient_quota" || told.kind == "insufficient_quota" => {
            ModelError::NotConfigured(format!("the quota at {provider} is used up: {shown}"))
        }
        _ if should_retry == Some(false) => ModelError::Refused(format!("{status}: {shown}")),
        429 => ModelError::RateLimited { retry_after },
        408 | 409 | 500.. => ModelError::Overloaded { retry_after },
        _ if should_retry == Some(true) => ModelError::Overloaded { retry_after },
        _ => ModelError::Refused(format!("{status}: {shown}")),
    }
}

/// The many ways to say that the context is too long.
pub(crate) fn is_overflow(told: &Told) -> bool {
    let message = told.message.to_ascii_lowercase();
    told.code == "context_length_exceeded"
        || told.kind == "exceed_context_size_error"
        || [
            "prompt is too long",
            "maximum context length",
            "context window",
            "exceeds the available context size",
            "input is too long",
        ]
        .iter()
        .any(|words| message.contains(words))
}

/// Ids of other providers may have characters that some refuse.
pub(crate) fn tool_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}

/// Reads a call's arguments: an empty text means none.
pub(crate) fn arguments(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> ModelError {
        let find = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        refused("p", status, Hints::read(find), body)
    }

    #[test]
    fn each_answer_means_what_the_providers_say_it_does() {
        let openai = r#"{"error": {"message": "too long", "type": "x", "code": "context_length_exceeded"}}"#;
        assert!(matches!(error(400, &[], openai), ModelError::ContextOverflow));
        let anthropic =
            r#"{"type": "error", "error": {"type": "e", "message": "prompt is too long: 9 > 8"}}"#;
        assert!(matches!(error(400, &[], anthropic), ModelError::ContextOverflow));
        let llama = r#"{"error": {"code": 400, "message": "m", "type": "exceed_context_size_error"}}"#;
        assert!(matches!(error(400, &[], llama), ModelError::ContextOverflow));
        let quota = r#"{"error": {"message": "pay", "code": "insufficient_quota"}}"#;
        assert!(matches!(error(429, &[], quota), ModelError::NotConfigured(_)));
        let wait = |headers: &[(&'static str, &'static str)]| match error(429, headers, "") {
            ModelError::RateLimited { retry_after } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("retry-after-ms", "1500"), ("retry-after", "9")]),
            Some(Duration::from_millis(1500))
        );
        let date = ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT");
        assert_eq!(wait(&[date]), None);
        assert_eq!(wait(&[date, ("date", "Wed, 21 Oct 2026 07:27:15 GMT")]), Some(Duration::from_secs(45)));
        assert_eq!(wait(&[date, ("date", "Wed, 21 Oct 2026 07:28:15 GMT")]), None, "a date that has passed");
        assert!(matches!(error(529, &[], "overloaded"), ModelError::Overloaded { .. }));
        let no = [("x-should-retry", "false")];
        assert!(matches!(error(503, &no, "down"), ModelError::Refused(why) if why == "503: down"));
        let yes = [("x-should-retry", "true"), ("retry-after", "3")];
        assert!(matches!(error(400, &yes, "{}"), ModelError::Overloaded { retry_after: Some(_) }));
        assert!(matches!(error(401, &[], "{}"), ModelError::NotConfigured(_)));
        assert!(
            matches!(error(400, &[], r#"{"error": "bad shape"}"#), ModelError::Refused(why) if why == "400: bad shape")
        );
    }

    #[test]
    fn a_key_does_not_show_itself_and_a_url_is_checked() {
        assert!(!format!("{:?}", ProviderKey::new("hush")).contains("hush"));
        assert!(client("ftp://x").is_err() && client("nonsense").is_err());
        assert!(client("http://127.0.0.1:1/v1").is_ok());
        assert_eq!(tool_id("functions.run:0"), "functions_run_0");
        assert_eq!(join("http://a/v1/", "chat"), "http://a/v1/chat");
    }
}
