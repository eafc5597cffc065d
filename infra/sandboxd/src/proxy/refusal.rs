//! What the proxy itself answers when a request does not reach a service: JSON for programs, a page for browsers.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use pvm_e2b_wire::control::ProxyError;

use super::Target;
use crate::body::{self, Body};

/// E2B's code interpreter; a service of its own that the templates here do not have.
const CODE_INTERPRETER_PORT: u16 = 49_999;

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The sandbox is gone, paused or never was.
    NotFound,
    /// The sandbox stopped answering in the middle of a request, which may have had its effect.
    Broken,
    /// Nothing listens on the port.
    PortClosed,
    /// The ports are private, and nothing was sent to open them.
    TokenMissing,
    /// The ports are private, and what was sent does not open them.
    TokenInvalid,
}

/// Whether the client is a person's browser that wants a page. Scripts in pages ask for anything (`*/*`), and read
/// JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader {
    is_browser: bool,
}

impl Reader {
    /// Judges by the request's headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let agent = text(header::USER_AGENT).unwrap_or_default().to_ascii_lowercase();
        let wants_page = text(header::ACCEPT).is_none_or(|accept| accept.contains("text/html"));
        Self { is_browser: wants_page && agent.contains("mozilla") }
    }
}

impl Refusal {
    /// The answer.
    pub(super) fn answer(self, target: &Target, reader: Reader) -> Response<Body> {
        let error = self.error(target);
        if reader.is_browser { page(&error, self.title(), &self.explanation(target)) } else { json(&error) }
    }

    fn error(self, target: &Target) -> ProxyError {
        let id = target.sandbox_id.clone();
        let refused = |message: &str| ProxyError {
            sandbox_id: target.sandbox_id.clone(),
            message: message.into(),
            code: 403,
            port: Some(target.port),
        };
        match self {
            Self::NotFound => ProxyError::sandbox_not_found(id),
            Self::Broken => ProxyError {
                sandbox_id: id,
                message: "The sandbox stopped answering; whether the request had its effect is not known"
                    .into(),
                code: 502,
                port: None,
            },
            Self::PortClosed if target.port == CODE_INTERPRETER_PORT => {
                let mut error = ProxyError::port_closed(id, target.port);
                let note = " (it belongs to E2B's code interpreter, which this server does not have)";
                error.message.push_str(note);
                error
            }
            Self::PortClosed => ProxyError::port_closed(id, target.port),
            Self::TokenMissing => refused(
                "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing",
            ),
            Self::TokenInvalid => refused(
                "Sandbox is secured with traffic access token. Provided token in header \
                 'e2b-traffic-access-token' is invalid",
            ),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Sandbox Not Found",
            Self::Broken => "Sandbox Stopped Answering",
            Self::PortClosed => "Closed Port",
            Self::TokenMissing => "Missing Traffic Access Token",
            Self::TokenInvalid => "Invalid Traffic Access Token",
        }
    }

    fn explanation(self, target: &Target) -> String {
        let (id, port) = (escaped(&target.sandbox_id), target.port);
        match self {
            Self::NotFound => {
                format!("The sandbox <b>{id}</b> was not found: it has ended, or it is paused.")
            }
            Self::Broken => {
                format!("The sandbox <b>{id}</b> stopped answering in the middle of the request.")
            }
            Self::PortClosed => {
                format!(
                    "The sandbox <b>{id}</b> is running, but there's no service running on port <b>{port}</b>."
                )
            }
            Self::TokenMissing | Self::TokenInvalid => format!(
                "The ports of the sandbox <b>{id}</b> are private: open them with a valid link, or send the header \
                 <code>e2b-traffic-access-token</code>."
            ),
        }
    }
}

/// An error of the proxy as JSON.
pub(super) fn json(error: &ProxyError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::BAD_GATEWAY);
    of(status, "application/json; charset=utf-8", serde_json::to_vec(error).unwrap_or_default())
}

/// Any answer of the proxy.
pub(super) fn of(status: StatusCode, kind: &'static str, text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Pages of any origin read envd's answers; they shall be able to read why there is none.
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn page(error: &ProxyError, title: &str, explanation: &str) -> Response<Body> {
    let text = format!(
        "<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body style=\"font-family: sans-serif; margin: 15vh auto; max-width: 40em; text-align: center\">\
         <h1>{title}</h1><p>{explanation}</p></body></html>"
    );
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::BAD_GATEWAY);
    of(status, "text/html; charset=utf-8", text.into_bytes())
}

/// Text that may stand in a page: an id comes from whoever made the link.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(agent: &str, accept: Option<&str>) -> Reader {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, agent.parse().unwrap());
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        Reader::of(&headers)
    }

    #[test]
    fn people_get_a_page_and_programs_json() {
        let target = Target { sandbox_id: "i1<b>".into(), port: 80 };
        let kind = |reader| {
            let response = Refusal::PortClosed.answer(&target, reader);
            response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
        };
        let browser = "Mozilla/5.0 (X11; Linux x86_64)";
        assert_eq!(kind(reader(browser, None)), "text/html; charset=utf-8");
        assert_eq!(kind(reader(browser, Some("text/html,*/*"))), "text/html; charset=utf-8");
        assert_eq!(kind(reader(browser, Some("*/*"))), "application/json; charset=utf-8");
        assert_eq!(kind(reader("curl/8", None)), "application/json; charset=utf-8");
        assert!(!Refusal::PortClosed.explanation(&target).contains("<b>i1<b>"));
    }
}
