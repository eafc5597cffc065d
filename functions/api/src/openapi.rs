//! The OpenAPI 3.1 document, made from the table of routes and the types of the contracts.

mod operations;
mod schemas;

use serde_json::{Map, Value, json};

use crate::routes::{Auth, ROUTES, Route, Sends};
use operations::{Operation, Place, operation};
use schemas::Schemas;

/// The whole document.
pub fn document() -> Value {
    let mut schemas = Schemas::default();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let Some(operation) = operation(route.name) else { continue };
        let described = described(route, &operation, &mut schemas);
        let path = paths.entry(route.path.to_owned()).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = described;
    }
    let problem = schemas.answer::<pvm_contracts::problem::Problem>();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Project VM",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Projects that own a Linux computer, a file store and conversations of agents that work there. \
                            Times are RFC 3339 in UTC. Errors are RFC 9457 problem documents with a stable `code`.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": {"Problem": {
                "description": "An error; `code` says which.",
                "content": {"application/problem+json": {"schema": problem}},
            }},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a token of the configured issuer.",
                },
                "ticket": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "ticket",
                    "description": "A stream ticket: a minute, one path.",
                },
            },
        },
    });
    schemas::merge_equal(&mut document);
    document
}

fn described(route: &Route, operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = path_parameters(route.path, schemas);
    for parameter in &operation.parameters {
        let place = match parameter.place {
            Place::Query => "query",
            Place::Header => "header",
        };
        parameters.push(json!({
            "name": parameter.name, "in": place, "description": parameter.about, "schema": parameter.schema,
        }));
    }
    let mut described = json!({
        "operationId": route.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": responses(route, operation, schemas),
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if !operation.bodies.is_empty() {
        let content: Map<String, Value> = operation
            .bodies
            .iter()
            .map(|(media_type, schema)| ((*media_type).to_owned(), json!({"schema": schema(schemas)})))
            .collect();
        described["requestBody"] = json!({"required": operation.needs_body, "content": content});
    }
    match route.auth {
        Auth::Open => described["security"] = json!([]),
        Auth::Ticket => described["security"] = json!([{"token": []}, {"ticket": []}]),
        Auth::Token => {}
    }
    described
}

fn responses(route: &Route, operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for answer in &operation.answers {
        let mut content: Map<String, Value> = Map::new();
        if let Some(schema) = answer.schema {
            content.insert(answer.media_type.to_owned(), json!({"schema": schema(schemas)}));
        }
        let events = route.sends == Sends::Stream && answer.media_type == "application/json";
        if events && answer.status == 200 {
            content.insert("text/event-stream".to_owned(), json!({"schema": {"type": "string"}}));
        }
        let mut response = json!({"description": answer.about});
        if !content.is_empty() {
            response["content"] = content.into();
        }
        responses.insert(answer.status.to_string(), response);
    }
    responses.insert("default".to_owned(), json!({"$ref": "#/components/responses/Problem"}));
    responses.into()
}

fn path_parameters(path: &str, schemas: &mut Schemas) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": schemas.id(name)}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        for route in ROUTES {
            assert!(operation(route.name).is_some(), "{} is not described", route.name);
        }
        let described: usize =
            document()["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(ROUTES.len(), described);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let place = reference.split('"').next().unwrap();
            assert!(document.pointer(place).is_some(), "{place}");
        }
    }
}
