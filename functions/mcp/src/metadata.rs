//! OAuth 2.0 Protected Resource Metadata (RFC 9728): where a client gets a token for this server. Served only where an
//! issuer is configured; an install with API keys alone has no authorization server to name.

use http::StatusCode;
use http::header::{CACHE_CONTROL, HOST};
use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};
use pvm_application::error::{AppError, AppResult};
use pvm_entry::{Reply, Settings, reply};
use serde_json::json;

/// Where the metadata is, below the API's root; the path of a project's server may follow.
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The API's root as the caller reached it, stage included, such as `https://host/prod`. A stage is not part of the path
/// that routes see, so it is taken from what the gateway says of the request.
fn root(settings: &Settings, request: &Request) -> Option<String> {
    if let Some(url) = &settings.public_url {
        return Some(url.trim_end_matches('/').to_owned());
    }
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST.as_str())?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let scheme = match text("x-forwarded-proto") {
        Some("http") => "http",
        Some(_) => "https",
        None if ["localhost", "127.0.0.1", "[::1]"].contains(&name) => "http",
        None => "https",
    };
    let stage = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV1(context)) => {
            let whole = context.path.as_deref().unwrap_or_default();
            whole.strip_suffix(request.raw_http_path()).unwrap_or_default().trim_end_matches('/').to_owned()
        }
        _ => String::new(),
    };
    Some(format!("{scheme}://{host}{stage}"))
}

/// `GET /.well-known/oauth-protected-resource` and the same with a server's path after it.
///
/// # Errors
/// `not_found` where no issuer is configured.
pub fn metadata(settings: &Settings, request: &Request) -> AppResult<Reply> {
    let missing = || AppError::not_found("authorization server; this install takes API keys only");
    let issuer = settings.oidc_issuer.as_ref().ok_or_else(missing)?;
    let root = root(settings, request).ok_or_else(missing)?;
    let path = request.raw_http_path().strip_prefix(METADATA_PATH).unwrap_or_default().trim_end_matches('/');
    let document = json!({
        "resource": format!("{root}{path}"),
        "resource_name": "Project VM",
        "authorization_servers": [issuer],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["pvm:read", "pvm:write", "pvm:admin"],
    });
    let answer = reply::json(StatusCode::OK, &document);
    Ok(reply::with_header(answer, CACHE_CONTROL, "public, max-age=3600"))
}

/// The `WWW-Authenticate` value of a 401 on a project's server, which tells where the metadata is.
pub fn challenge(settings: &Settings, request: &Request) -> String {
    let metadata = settings.oidc_issuer.as_ref().and_then(|_| root(settings, request));
    match metadata {
        Some(root) => {
            let path = request.raw_http_path();
            format!(
                "Bearer realm=\"pvm\", resource_metadata=\"{root}{METADATA_PATH}{path}\", scope=\"pvm:write\""
            )
        }
        None => "Bearer realm=\"pvm\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::aws_lambda_events::apigw::ApiGatewayProxyRequestContext;
    use pvm_entry::ReplyBody;

    use super::*;

    fn settings(issuer: bool) -> Settings {
        let issuer = issuer.then(|| "https://issuer.example".to_owned());
        Settings { oidc_issuer: issuer, ..Settings::from_lookup(|_| None).unwrap() }
    }

    fn request(path: &str, stage: &str) -> Request {
        let mut context = ApiGatewayProxyRequestContext::default();
        context.path = Some(format!("{stage}{path}"));
        let mut request = Request::default()
            .with_raw_http_path(path)
            .with_request_context(RequestContext::ApiGatewayV1(context));
        request.headers_mut().insert(HOST, "abc.example.com".parse().unwrap());
        request
    }

    #[test]
    fn the_resource_is_the_full_url_with_the_stage() {
        let path = format!("{METADATA_PATH}/api/projects/x/mcp");
        let reply = metadata(&settings(true), &request(&path, "/prod")).unwrap();
        let ReplyBody::Bytes(body) = reply.into_body() else { panic!("it is one document") };
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["resource"], "https://abc.example.com/prod/api/projects/x/mcp");
        assert_eq!(document["authorization_servers"][0], "https://issuer.example");
    }

    #[test]
    fn a_challenge_names_the_metadata_only_where_there_is_an_issuer() {
        let asked = request("/api/projects/x/mcp", "/prod");
        let text = challenge(&settings(true), &asked);
        let url = "https://abc.example.com/prod/.well-known/oauth-protected-resource/api/projects/x/mcp";
        assert!(text.contains(url), "{text}");
        assert!(!challenge(&settings(false), &asked).contains("resource_metadata"));
        assert!(metadata(&settings(false), &asked).is_err());
    }
}
