//! Routes: the table, the template and the OpenAPI document.

use std::collections::BTreeSet;

use pvm_api::routes::{Auth, ROUTES, Sends};
use serde_json::Value;

use crate::differences;
use crate::template::TEMPLATE;

#[test]
fn the_template_has_the_routes_of_the_table() {
    let told = |method: &str, path: &str, name: &str, stream: bool, authorizer: &str| {
        format!("{method} {path} -> {name}, stream: {stream}, authorizer: {authorizer:?}")
    };
    let table: BTreeSet<String> = ROUTES
        .iter()
        .map(|route| {
            let authorizer = match route.auth {
                Auth::Open => "NONE",
                Auth::Token => "",
                Auth::Ticket => "TokenOrTicket",
            };
            told(route.method.as_str(), route.path, route.name, route.sends == Sends::Stream, authorizer)
        })
        .collect();
    let routes =
        TEMPLATE.functions.values().flat_map(|function| function.routes.iter().map(move |it| (function, it)));
    let deployed = routes
        .map(|(function, it)| told(&it.method, &it.path, &function.binary, it.stream, &it.authorizer))
        .collect();
    // Its handler tells other methods from a wrong path, as MCP asks; elsewhere the gateway answers 404 to both.
    let mcp = |method| told(method, "/api/projects/{project_id}/mcp", "mcp-server", true, "");
    let table = table.into_iter().chain([mcp("GET"), mcp("DELETE")]).collect();
    super::none(differences(("routes.rs", &table), ("template.yaml", &deployed)));
}

/// API Gateway ends a call after 29 s; a function that goes on longer works for nobody.
#[test]
fn a_function_behind_a_route_ends_before_the_gateway_gives_up() {
    let functions = TEMPLATE.functions.values().filter(|function| !function.routes.is_empty());
    let late = functions
        .filter(|function| function.timeout > 29 && function.routes.iter().any(|route| !route.stream));
    super::none(late.map(|function| format!("{}: {} s", function.binary, function.timeout)).collect());
}

#[test]
fn the_openapi_document_has_the_routes_of_the_template() {
    let openapi: Value = serde_json::from_str(&super::text("openapi.json")).unwrap();
    let paths = openapi["paths"].as_object().unwrap();
    let documented: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| ["get", "post", "put", "delete"].contains(&key.as_str()));
            methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let routes = TEMPLATE.functions.values().flat_map(|function| &function.routes);
    // Answered with 405, and so nothing to document.
    let routes =
        routes.filter(|route| route.path != "/api/projects/{project_id}/mcp" || route.method == "POST");
    let deployed = routes.map(|route| (route.method.clone(), route.path.clone())).collect();
    super::none(differences(("openapi.json", &documented), ("template.yaml", &deployed)));
}
