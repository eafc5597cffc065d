//! The one table of routes: method, path, the name of the program that serves it, who may come in, how its answers are
//! sent, how long its bodies may be, and how to call it in process. The template, the OpenAPI document and the programs
//! are checked against it.

use std::pin::Pin;
use std::sync::Arc;

use http::Method;
use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_entry::{Reply, Wiring};

use crate::{
    agents, archives, commands, conversations, events, files, health, keys, limits, mcp, metadata, projects,
    secrets, services, vm,
};

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Anybody.
    Open,
    /// Bearers of a token.
    Token,
    /// Bearers of a token, or of a ticket for this very path.
    Ticket,
}

/// How answers are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// At once.
    Whole,
    /// As they come: event streams, and raw bytes, which API Gateway would otherwise leave in base64 for every client
    /// that does not name their type in `Accept`.
    Stream,
}

/// A route.
#[derive(Debug, Clone)]
pub struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path with its parameters in braces.
    pub path: &'static str,
    /// Name of its program: `create-project` is `src/bin/create-project.rs`.
    pub name: &'static str,
    /// Who may come in.
    pub auth: Auth,
    /// How answers are sent.
    pub sends: Sends,
    /// The most bytes of a body.
    pub most: usize,
}

/// What calling a route returns.
pub type Answering = Pin<Box<dyn Future<Output = AppResult<Reply>> + Send>>;

/// Calls a route with the adapters of `P`.
pub type Handler<P> = fn(Arc<P>, Request) -> Answering;

/// A body is not looked at.
const NONE: usize = 64 * 1024;
/// JSON.
const JSON: usize = pvm_domain::limits::JSON_BODY_BYTES;
/// A file of 4 MiB, and what a form adds to it.
const FILE: usize = pvm_domain::limits::UPLOAD_INLINE_BYTES as usize + 64 * 1024;

/// Arguments of tools may hold a file.
const MCP: usize = 6 * 1024 * 1024;

macro_rules! routes {
    ($($method:ident $path:literal => $name:literal, $auth:ident, $sends:ident, $most:ident,
       |$p:ident, $request:ident| $call:expr;)*) => {
        /// Every route.
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            name: $name,
            auth: Auth::$auth,
            sends: Sends::$sends,
            most: $most,
        }),*];

        /// How to call each route, in the order of [`ROUTES`].
        pub fn handlers<P: Wiring>() -> Vec<Handler<P>> {
            vec![$(|app, $request| Box::pin(async move {
                let $p = &*app;
                $call.await
            })),*]
        }
    };
}

routes! {
    GET "/healthz" => "get-health", Open, Whole, NONE,
        |_p, request| health::handle(request);

    POST "/api/projects" => "create-project", Token, Whole, JSON,
        |p, request| projects::create::handle(p.store(), p.workflow(), p.ambient(), request);
    GET "/api/projects" => "list-projects", Token, Whole, NONE,
        |p, request| projects::list::handle(p.store(), p.signer(), request);
    GET "/api/projects/{project_id}" => "get-project", Token, Whole, NONE,
        |p, request| projects::get::handle(p.store(), request);
    PUT "/api/projects/{project_id}" => "update-project", Token, Whole, JSON,
        |p, request| projects::update::handle(p.store(), p.ambient(), request);
    DELETE "/api/projects/{project_id}" => "delete-project", Token, Whole, NONE,
        |p, request| projects::delete::handle(p.store(), p.workflow(), p.ambient(), request);
    GET "/api/projects/{project_id}/status" => "get-status", Token, Whole, NONE,
        |p, request| vm::status::handle(p.store(), p.vm(), p.ambient(), request);

    POST "/api/projects/{project_id}/vm/setup" => "setup-vm", Token, Whole, JSON,
        |p, request| vm::setup::handle(p.store(), p.workflow(), p.ambient(), request);
    POST "/api/projects/{project_id}/vm/pause" => "pause-vm", Token, Whole, JSON,
        |p, request| vm::pause::handle(p.store(), p.objects(), p.vm(), p.ambient(), request);
    DELETE "/api/projects/{project_id}/vm" => "delete-vm", Token, Whole, NONE,
        |p, request| vm::delete::handle(p.store(), p.workflow(), p.ambient(), request);

    POST "/api/projects/{project_id}/vm/command" => "run-command", Token, Stream, JSON,
        |p, request| commands::run::handle(
            p.store(), p.objects(), p.workflow(), p.vm(), p.saver(), p.ambient(), request);
    GET "/api/projects/{project_id}/vm/commands/{command_id}" => "get-command", Token, Stream, NONE,
        |p, request| commands::get::handle(
            p.store(), p.objects(), p.workflow(), p.vm(), p.saver(), p.ambient(), request);
    GET "/api/projects/{project_id}/vm/commands/{command_id}/output" => "get-command-output", Token, Stream, NONE,
        |p, request| commands::output::handle(
            p.store(), p.objects(), p.workflow(), p.vm(), p.saver(), p.ambient(), request);
    DELETE "/api/projects/{project_id}/vm/commands/{command_id}" => "kill-command", Token, Whole, NONE,
        |p, request| commands::kill::handle(
            p.store(), p.objects(), p.workflow(), p.vm(), p.saver(), p.ambient(), request);

    POST "/api/projects/{project_id}/services" => "start-service", Token, Whole, JSON,
        |p, request| services::start::handle(p.store(), p.workflow(), p.vm(), p.ambient(), request);
    GET "/api/projects/{project_id}/services" => "list-services", Token, Whole, NONE,
        |p, request| services::list::handle(p.store(), p.vm(), p.ambient(), request);
    DELETE "/api/projects/{project_id}/services/{service_id}" => "stop-service", Token, Whole, NONE,
        |p, request| services::stop::handle(p.store(), p.vm(), p.ambient(), request);
    GET "/api/projects/{project_id}/services/{service_id}/logs" => "get-service-logs", Token, Stream, NONE,
        |p, request| services::logs::handle(p.store(), p.vm(), p.ambient(), request);
    POST "/api/projects/{project_id}/services/{service_id}/links" => "create-service-link", Token, Whole, JSON,
        |p, request| services::link::handle(p.store(), p.workflow(), p.vm(), p.ambient(), request);
    DELETE "/api/projects/{project_id}/services/{service_id}/links" => "revoke-service-links", Token, Whole, NONE,
        |p, request| services::revoke::handle(p.store(), p.vm(), p.ambient(), request);

    POST "/api/projects/{project_id}/files" => "upload-file", Token, Whole, FILE,
        |p, request| files::upload::handle(p.store(), p.objects(), p.ambient(), request);
    GET "/api/projects/{project_id}/files" => "list-files", Token, Whole, NONE,
        |p, request| files::list::handle(p.store(), p.signer(), request);
    GET "/api/projects/{project_id}/files/{file_id}" => "get-file", Token, Whole, NONE,
        |p, request| files::get::handle(p.store(), p.objects(), p.ambient(), request);
    DELETE "/api/projects/{project_id}/files/{file_id}" => "delete-file", Token, Whole, NONE,
        |p, request| files::delete::handle(p.store(), p.objects(), p.vm(), p.ambient(), request);

    POST "/api/projects/{project_id}/files/{file_id}/upload" => "complete-upload", Token, Whole, JSON,
        |p, request| files::complete::handle(p.store(), p.objects(), request);
    DELETE "/api/projects/{project_id}/files/{file_id}/upload" => "abort-upload", Token, Whole, NONE,
        |p, request| files::abort::handle(p.store(), p.objects(), request);
    GET "/api/projects/{project_id}/files/{file_id}/versions" => "list-file-versions", Token, Whole, NONE,
        |p, request| files::versions::handle(p.store(), request);
    GET "/api/projects/{project_id}/files/{file_id}/versions/{number}" => "get-file-version", Token, Whole, NONE,
        |p, request| files::version::handle(p.store(), p.objects(), p.ambient(), request);
    POST "/api/projects/{project_id}/files/{file_id}/versions/{number}/restore" => "restore-file-version",
        Token, Whole, NONE,
        |p, request| files::restore::handle(p.store(), p.saver(), p.ambient(), request);
    POST "/api/projects/{project_id}/archives" => "create-archive", Token, Whole, JSON,
        |p, request| archives::create::handle(p.store(), p.saver(), p.ambient(), request);
    GET "/api/projects/{project_id}/archives/{archive_id}" => "get-archive", Token, Whole, NONE,
        |p, request| archives::get::handle(p.store(), p.objects(), p.ambient(), request);

    GET "/api/projects/{project_id}/secrets" => "list-secrets", Token, Whole, NONE,
        |p, request| secrets::list::handle(p.store(), request);
    PUT "/api/projects/{project_id}/secrets/{name}" => "put-secret", Token, Whole, JSON,
        |p, request| secrets::put::handle(p.store(), p.secrets(), p.vm(), p.ambient(), request);
    GET "/api/projects/{project_id}/secrets/{name}" => "get-secret", Token, Whole, NONE,
        |p, request| secrets::get::handle(p.store(), request);
    DELETE "/api/projects/{project_id}/secrets/{name}" => "delete-secret", Token, Whole, NONE,
        |p, request| secrets::delete::handle(p.store(), p.secrets(), p.vm(), p.ambient(), request);

    POST "/api/projects/{project_id}/conversations" => "create-conversation", Token, Whole, JSON,
        |p, request| conversations::create::handle(
            p.store(), p.objects(), p.workflow(), p.models(), p.ambient(), request);
    POST "/chat/agents/conversation" => "create-agent-conversation", Token, Whole, JSON,
        |p, request| conversations::create_in_project::handle(
            p.store(), p.objects(), p.workflow(), p.models(), p.ambient(), request);
    GET "/api/projects/{project_id}/conversations" => "list-conversations", Token, Whole, NONE,
        |p, request| conversations::list::handle(p.store(), p.signer(), request);
    GET "/api/projects/{project_id}/conversations/{conversation_id}" => "get-conversation", Token, Whole, NONE,
        |p, request| conversations::get::handle(p.store(), request);
    POST "/api/projects/{project_id}/conversations/{conversation_id}/messages" => "send-message", Token, Whole, JSON,
        |p, request| conversations::send::handle(
            p.store(), p.objects(), p.workflow(), p.vm(), p.models(), p.ambient(), request);
    POST "/api/projects/{project_id}/conversations/{conversation_id}/cancel" => "cancel-conversation",
        Token, Whole, JSON,
        |p, request| conversations::cancel::handle(
            p.store(), p.workflow(), p.vm(), p.ambient(), request);
    POST "/api/projects/{project_id}/conversations/{conversation_id}/fork" => "fork-conversation", Token, Whole, JSON,
        |p, request| conversations::fork::handle(p.store(), p.ambient(), request);
    POST "/api/projects/{project_id}/conversations/{conversation_id}/approvals/{approval_id}" => "decide-approval",
        Token, Whole, JSON,
        |p, request| conversations::decide::handle(p.store(), p.workflow(), p.ambient(), request);
    GET "/api/projects/{project_id}/conversations/{conversation_id}/events" => "read-conversation-events",
        Ticket, Stream, NONE,
        |p, request| events::conversation::handle(p.store(), p.ambient(), request);

    GET "/api/projects/{project_id}/events" => "read-project-events", Ticket, Stream, NONE,
        |p, request| events::project::handle(p.store(), p.ambient(), request);
    POST "/api/projects/{project_id}/stream-ticket" => "create-stream-ticket", Token, Whole, JSON,
        |p, request| events::ticket::handle(p.store(), p.signer(), p.ambient(), request);

    POST "/api/projects/{project_id}/mcp" => "mcp-server", Token, Stream, MCP,
        |p, request| mcp::handle(p, request);
    GET "/.well-known/oauth-protected-resource" => "get-resource-metadata", Open, Whole, NONE,
        |p, request| metadata::handle(p.settings(), request);
    GET "/.well-known/oauth-protected-resource/api/projects/{project_id}/mcp" => "get-mcp-metadata",
        Open, Whole, NONE,
        |p, request| metadata::handle(p.settings(), request);

    POST "/api/agents" => "create-agent", Token, Whole, JSON,
        |p, request| agents::create::handle(p.store(), p.models(), p.ambient(), request);
    GET "/api/agents" => "list-agents", Token, Whole, NONE,
        |p, request| agents::list::handle(p.store(), p.signer(), request);
    GET "/api/agents/{agent_id}" => "get-agent", Token, Whole, NONE,
        |p, request| agents::get::handle(p.store(), request);
    PUT "/api/agents/{agent_id}" => "update-agent", Token, Whole, JSON,
        |p, request| agents::update::handle(p.store(), p.models(), p.ambient(), request);
    DELETE "/api/agents/{agent_id}" => "delete-agent", Token, Whole, NONE,
        |p, request| agents::delete::handle(p.store(), p.ambient(), request);

    GET "/api/limits" => "get-limits", Token, Whole, NONE,
        |p, request| limits::get::handle(p.store(), p.ambient(), request);
    PUT "/api/limits/{owner}" => "set-limits", Token, Whole, JSON,
        |p, request| limits::set::handle(p.settings(), p.store(), p.ambient(), request);

    POST "/api/keys" => "create-key", Token, Whole, JSON,
        |p, request| keys::create::handle(p.store(), p.ambient(), request);
    GET "/api/keys" => "list-keys", Token, Whole, NONE,
        |p, request| keys::list::handle(p.store(), p.signer(), request);
    DELETE "/api/keys/{key_id}" => "revoke-key", Token, Whole, NONE,
        |p, request| keys::revoke::handle(p.store(), p.ambient(), request);
}

/// Where a path leads.
#[derive(Debug)]
pub enum Found {
    /// To this route (its place in [`ROUTES`]), with the path's parameters, still encoded.
    Route(usize, Vec<(&'static str, String)>),
    /// To no route of this method; these are the methods that it has.
    OtherMethods(Vec<Method>),
    /// Nowhere.
    Nothing,
}

/// Finds the route of a request. A slash at the end of a path changes nothing.
pub fn find(method: &Method, path: &str) -> Found {
    let wanted: Vec<&str> = split(path);
    let mut others = Vec::new();
    for (place, route) in ROUTES.iter().enumerate() {
        let Some(parameters) = matched(route.path, &wanted) else { continue };
        if route.method == *method {
            return Found::Route(place, parameters);
        }
        others.push(route.method.clone());
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) }
}

fn split(path: &str) -> Vec<&str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path).split('/').collect()
}

fn matched(pattern: &'static str, wanted: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let pattern = split(pattern);
    if pattern.len() != wanted.len() {
        return None;
    }
    let mut parameters = Vec::new();
    for (part, text) in pattern.into_iter().zip(wanted) {
        match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(_) if text.is_empty() => return None,
            Some(name) => parameters.push((name, (*text).to_owned())),
            None if part == *text => {}
            None => return None,
        }
    }
    Some(parameters)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_route_has_a_name_and_a_place_of_its_own() {
        let names: HashSet<_> = ROUTES.iter().map(|route| route.name).collect();
        let places: HashSet<_> = ROUTES.iter().map(|route| (&route.method, route.path)).collect();
        assert_eq!((names.len(), places.len()), (ROUTES.len(), ROUTES.len()));
    }

    #[test]
    fn a_path_leads_to_its_route_with_its_parameters() {
        let Found::Route(place, parameters) = find(&Method::GET, "/api/projects/prj_1/files/file_2") else {
            panic!("there is such a route")
        };
        assert_eq!(ROUTES[place].name, "get-file");
        assert_eq!(parameters, [("project_id", "prj_1".to_owned()), ("file_id", "file_2".to_owned())]);
        assert!(matches!(find(&Method::GET, "/api/projects/"), Found::Route(..)));
        assert!(matches!(find(&Method::GET, "/api/projects//files"), Found::Nothing));
        assert!(matches!(find(&Method::GET, "/"), Found::Nothing));
        assert!(matches!(find(&Method::GET, "/api/nothing"), Found::Nothing));
    }

    #[test]
    fn another_method_is_told_apart_from_another_path() {
        let Found::OtherMethods(methods) = find(&Method::PATCH, "/api/projects/prj_1") else {
            panic!("the path exists")
        };
        assert_eq!(methods, [Method::GET, Method::PUT, Method::DELETE]);
    }

    #[test]
    fn only_event_logs_take_tickets_and_little_is_open() {
        for route in ROUTES {
            assert_eq!(route.auth == Auth::Ticket, route.path.ends_with("/events"), "{}", route.name);
            let open = route.path == "/healthz" || route.path.starts_with("/.well-known/");
            assert_eq!(route.auth == Auth::Open, open, "{}", route.name);
        }
    }
}
