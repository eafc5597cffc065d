//! The HTTP side: who calls, which hosts and web pages may, and the protocol library's answer as one of ours.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, BodyStream, Full};
use lambda_http::RequestExt;
use lambda_http::request::RequestContext;
use pvm_application::authorize::authorize;
use pvm_application::error::{AppResult, ErrorCode};
use pvm_domain::ids::ProjectId;
use pvm_domain::project::Scope;
use pvm_entry::{Reply, ReplyBody, Settings, principal, request};
use pvm_tools::Ports;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use crate::cancel;
use crate::parts::Parts;
use crate::server::ProjectServer;

/// The longest request, in bytes: a Lambda's payload.
const REQUEST_BYTES: usize = 6 * 1024 * 1024;

/// Pages of this machine, such as a developer's own tools: to be one takes more than a name that was rebound.
const OWN_PAGES: [&str; 6] = [
    "http://localhost:*",
    "https://localhost:*",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://[::1]:*",
    "https://[::1]:*",
];

/// Which `Host` and `Origin` headers are let in.
#[derive(Debug, Clone, Default)]
pub struct Doors {
    /// Hosts besides this machine's own names and the gateway's: a page that rebinds its name to this machine has
    /// another one.
    pub hosts: Vec<String>,
    /// Web pages that may call besides those of this machine; `*` is any. A request without `Origin` is not from a page.
    pub origins: Vec<String>,
}

impl Doors {
    /// What the settings let in.
    pub fn of(settings: &Settings) -> Self {
        let own = settings.public_url.as_deref().and_then(|url| url.parse::<http::Uri>().ok());
        let own = own.and_then(|url| url.host().map(str::to_owned));
        let hosts = own.into_iter().chain(settings.mcp_hosts.iter().cloned()).collect();
        Self { hosts, origins: settings.cors_origins.clone() }
    }
}

/// Serves one request of `POST /api/projects/{project_id}/mcp`, and answers other methods with 405.
///
/// # Errors
/// `unauthorized`, and `not_found` for a project that is not there or not the caller's. Everything after that is told
/// by the protocol.
pub async fn handle<P: Parts>(
    mcp: &Arc<P>,
    doors: &Doors,
    request: lambda_http::Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id: ProjectId = request::path_id(&request, "project_id")?;
    let store = mcp.tools().store();
    let project = authorize(store, &principal, &project_id, Scope::Read).await?;
    let scope = match authorize(store, &principal, &project_id, Scope::Write).await {
        Ok(_) => principal.scope,
        Err(error) if error.code == ErrorCode::Forbidden => Scope::Read,
        Err(error) => return Err(error),
    };
    let mut doors = doors.clone();
    // The gateway has checked the name that it was called by.
    if let Some(RequestContext::ApiGatewayV1(context)) = request.request_context_ref() {
        doors.hosts.extend(context.domain_name.clone());
    }
    let server = ProjectServer::new(mcp.clone(), project, principal, scope);
    let (parts, body) = request.into_parts();
    if let Some(key) = cancel::key_of(&parts, &body) {
        server.take_back(key).await;
    }
    let body = Full::new(Bytes::from(body.to_vec()));
    Ok(respond(server, &doors, http::Request::from_parts(parts, body)).await)
}

/// The answer of any protocol handler to one HTTP request, without sessions.
pub async fn respond<H>(server: H, doors: &Doors, mut request: http::Request<Full<Bytes>>) -> Reply
where
    H: ServerHandler + Clone,
{
    // HTTP/2 has the host in the URI only.
    if let (false, Some(authority)) = (request.headers().contains_key(HOST), request.uri().authority())
        && let Ok(host) = http::HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    let hosts = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).chain(doors.hosts.clone());
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(REQUEST_BYTES)
        .with_allowed_hosts(hosts);
    let config = if doors.origins.iter().any(|origin| origin == "*") {
        config.disable_allowed_origins()
    } else {
        let own = OWN_PAGES.into_iter().map(str::to_owned);
        config.with_allowed_origins(own.chain(doors.origins.clone())).enforce_origin_validation()
    };
    let service = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    into_reply(service.handle(request).await).await
}

/// Event streams stay streams; everything else is one piece.
async fn into_reply<B>(response: http::Response<B>) -> Reply
where
    B: http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Sync + 'static,
{
    let (parts, body) = response.into_parts();
    let is_stream =
        parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = if is_stream {
        let pieces = BodyStream::new(body).filter_map(|frame| {
            let data = frame.ok().and_then(|frame| frame.into_data().ok());
            async move { data.map(Ok) }
        });
        ReplyBody::Stream(Box::pin(pieces))
    } else {
        // This body cannot fail.
        ReplyBody::Bytes(body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default())
    };
    http::Response::from_parts(parts, body)
}
