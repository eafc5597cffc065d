//! The front of an embedded install: finds the route, asks who it is, reads the body and calls the very handler that runs
//! in Lambda, with the request as API Gateway would hand it on.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use lambda_http::aws_lambda_events::query_map::QueryMap;
use lambda_http::{Body, RequestExt};
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_authorizer::{Authorizer, Credentials, FetchJson};
use pvm_domain::key::Principal;
use pvm_entry::cors::Cors;
use pvm_entry::{Call, Reply, ReplyBody, Wiring, principal, reply, request, ticket};

use crate::pages;
use crate::routes::{Auth, Found, Handler, ROUTES, Route, find, handlers};

/// Bytes of a body that is too long that are read and dropped all the same: a client that is still sending would not
/// see the answer otherwise.
const DRAINED: usize = 32 * 1024 * 1024;

/// Serves the API in one process.
#[derive(Debug)]
pub struct Router<P: Wiring, F> {
    app: Arc<P>,
    handlers: Vec<Handler<P>>,
    authorizer: Authorizer<P::Store, P::Ambient, F>,
    cors: Cors,
}

impl<P: Wiring, F: FetchJson> Router<P, F> {
    /// A front over these adapters.
    pub fn new(app: Arc<P>, authorizer: Authorizer<P::Store, P::Ambient, F>) -> Self {
        let cors = Cors::new(&app.settings().cors_origins);
        Self { app, handlers: handlers(), authorizer, cors }
    }

    /// Answers one request.
    pub async fn serve<B>(&self, request: http::Request<B>) -> Reply
    where
        B: HttpBody<Data = Bytes> + Unpin + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let path = request.uri().path().to_owned();
        if request.method() == Method::GET
            && let Some(page) = pages::find(&path)
        {
            return page;
        }
        // A HEAD is a GET whose body stays here.
        let is_head = request.method() == Method::HEAD;
        let method = if is_head { Method::GET } else { request.method().clone() };
        let reply = match find(&method, &path) {
            Found::Route(place, parameters) => self.call(place, parameters, request).await,
            Found::OtherMethods(methods) => self.other_method(&methods, &request).await,
            Found::Nothing => {
                let nothing =
                    AppError::new(ErrorCode::NotFound, "There is nothing at this path; see /openapi.json.");
                self.refuse("unknown-path", &request, nothing).await
            }
        };
        if is_head { without_body(reply) } else { reply }
    }

    /// Who a request outside the table of routes speaks for (the terminal, which no API Gateway could serve), by its
    /// token or by a ticket for its path.
    ///
    /// # Errors
    /// `unauthorized`.
    pub async fn authenticate<B>(&self, request: &http::Request<B>) -> AppResult<Principal> {
        let who = self.who(Auth::Ticket, request).await?;
        who.ok_or_else(principal::unauthorized)
    }

    /// Answers a request outside the table of routes with what `handling` makes of it.
    pub async fn answer<B>(
        &self,
        name: &'static str,
        request: &http::Request<B>,
        handling: impl Future<Output = AppResult<Reply>>,
    ) -> Reply {
        called(name, request).answer(&self.cors, handling).await
    }

    /// The adapters.
    pub fn app(&self) -> &Arc<P> {
        &self.app
    }

    async fn call<B>(
        &self,
        place: usize,
        parameters: Vec<(&'static str, String)>,
        request: http::Request<B>,
    ) -> Reply
    where
        B: HttpBody<Data = Bytes> + Unpin + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let route = &ROUTES[place];
        let call = called(route.name, &request);
        let request_id = call.request_id.clone();
        let challenge = self.mcp_challenge(route, &request);
        let handling = async {
            let who = self.who(route.auth, &request).await?;
            let (parts, body) = request.into_parts();
            let body = read(body, route.most).await?;
            let gateway = as_gateway(parts, body, parameters, who.as_ref(), &request_id);
            (self.handlers[place])(self.app.clone(), gateway).await
        };
        let mut reply = call.answer(&self.cors, handling).await;
        if let Some(challenge) = challenge.filter(|_| reply.status() == StatusCode::UNAUTHORIZED) {
            reply = reply::with_header(reply, WWW_AUTHENTICATE, &challenge);
        }
        if reply.status() == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body cannot be told from the next request.
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    /// What tells an MCP client where it gets a token.
    fn mcp_challenge<B>(&self, route: &Route, request: &http::Request<B>) -> Option<String> {
        if route.name != "mcp-server" {
            return None;
        }
        let mut head = lambda_http::Request::default();
        head.headers_mut().clone_from(request.headers());
        let head = head.with_raw_http_path(request.uri().path());
        Some(pvm_mcp::challenge(self.app.settings(), &head))
    }

    async fn who<B>(&self, auth: Auth, request: &http::Request<B>) -> AppResult<Option<Principal>> {
        let header = match request.headers().get(AUTHORIZATION) {
            Some(value) => Some(value.to_str().map_err(|_| principal::unauthorized())?),
            None => None,
        };
        let query: QueryMap = request.uri().query().unwrap_or_default().parse().unwrap_or_default();
        let ticket = match auth {
            Auth::Open => return Ok(None),
            Auth::Token => None,
            Auth::Ticket => query.first(ticket::PARAMETER),
        };
        let credentials = Credentials { authorization: header, ticket, path: request.uri().path() };
        self.authorizer.authenticate(credentials).await.map(Some)
    }

    async fn other_method<B>(&self, methods: &[Method], request: &http::Request<B>) -> Reply {
        let allowed = allowed(methods);
        if request.method() == Method::OPTIONS {
            let mut reply = reply::with_header(reply::no_content(), ALLOW, &allowed);
            self.cors.mark_preflight(request.headers().get(ORIGIN), &allowed, reply.headers_mut());
            return reply;
        }
        let detail = format!("This path takes {allowed}.");
        let reply =
            self.refuse("unknown-method", request, AppError::new(ErrorCode::MethodNotAllowed, detail)).await;
        reply::with_header(reply, ALLOW, &allowed)
    }

    async fn refuse<B>(&self, name: &'static str, request: &http::Request<B>, error: AppError) -> Reply {
        called(name, request).answer(&self.cors, async { Err(error) }).await
    }
}

fn called<B>(name: &'static str, request: &http::Request<B>) -> Call {
    Call {
        name,
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        request_id: format!("{:032x}", rand::random::<u128>()),
        origin: request.headers().get(ORIGIN).cloned(),
    }
}

/// The methods of a path as the `Allow` header has them.
fn allowed(methods: &[Method]) -> String {
    let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if methods.contains(&Method::GET) {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.join(", ")
}

/// Reads a body of at most `most` bytes.
async fn read<B>(mut body: B, most: usize) -> AppResult<Vec<u8>>
where
    B: HttpBody<Data = Bytes> + Unpin + Send,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut whole = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            AppError::new(ErrorCode::BadRequest, "The body ended before it was complete.").because(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= most {
            whole.extend_from_slice(&data);
        } else {
            whole = Vec::new();
            if length > most + DRAINED {
                break;
            }
        }
    }
    if length > most { Err(request::too_large(most)) } else { Ok(whole) }
}

/// The request as API Gateway hands it to a Lambda function.
fn as_gateway(
    parts: http::request::Parts,
    body: Vec<u8>,
    parameters: Vec<(&'static str, String)>,
    who: Option<&Principal>,
    request_id: &str,
) -> lambda_http::Request {
    let path = parts.uri.path().to_owned();
    let query: QueryMap = parts.uri.query().unwrap_or_default().parse().unwrap_or_default();
    let parameters: HashMap<String, String> =
        parameters.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    let body = if body.is_empty() { Body::Empty } else { Body::Binary(body) };
    http::Request::from_parts(parts, body)
        .with_raw_http_path(path)
        .with_query_string_parameters(query)
        .with_path_parameters(parameters)
        .with_request_context(principal::request_context(who, request_id))
}

fn without_body(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(parts, ReplyBody::Bytes(Bytes::new()))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let body = || Full::new(Bytes::from_static(b"12345"));
        assert_eq!(read(body(), 5).await.unwrap(), b"12345");
        assert_eq!(read(body(), 4).await.unwrap_err().code, ErrorCode::TooLarge);
    }

    #[test]
    fn a_request_comes_as_the_gateway_hands_it_on() {
        let request = http::Request::builder().uri("/api/projects/prj_1?limit=5&x=a%20b").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let request =
            as_gateway(parts, b"{}".to_vec(), vec![("project_id", "prj_1".to_owned())], None, "req");
        assert_eq!(request.raw_http_path(), "/api/projects/prj_1");
        assert_eq!(request.path_parameters().first("project_id"), Some("prj_1"));
        assert_eq!(request.query_string_parameters().first("x"), Some("a b"));
        assert_eq!(Call::of("x", &request).request_id, "req");
    }

    #[test]
    fn a_path_that_can_be_got_can_be_looked_at() {
        assert_eq!(allowed(&[Method::GET, Method::PUT]), "GET, PUT, HEAD, OPTIONS");
        assert_eq!(allowed(&[Method::POST]), "POST, OPTIONS");
    }
}
