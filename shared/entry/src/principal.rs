//! The principal as the authorizer hands it on: API Gateway carries a flat map of texts.

use lambda_http::RequestExt;
use lambda_http::aws_lambda_events::apigw::ApiGatewayProxyRequestContext;
use lambda_http::request::RequestContext;
use pvm_application::error::{AppError, AppResult, ErrorCode};
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use serde_json::{Map, Value};

const OWNER: &str = "owner";
const SCOPE: &str = "scope";
const PROJECTS: &str = "projects";

/// The authorizer's context for a principal. Texts only: API Gateway refuses lists and objects.
pub fn to_context(principal: &Principal) -> Map<String, Value> {
    let scope = match principal.scope {
        Scope::Read => "read",
        Scope::Write => "write",
        Scope::Admin => "admin",
    };
    let mut context = Map::new();
    context.insert(OWNER.to_owned(), principal.owner.as_str().into());
    context.insert(SCOPE.to_owned(), scope.into());
    if let Some(projects) = &principal.projects {
        let ids: Vec<&str> = projects.iter().map(ProjectId::as_str).collect();
        context.insert(PROJECTS.to_owned(), ids.join(",").into());
    }
    context
}

/// Puts a principal and a request's id where API Gateway puts them.
pub fn request_context(principal: Option<&Principal>, request_id: &str) -> RequestContext {
    let mut context = ApiGatewayProxyRequestContext::default();
    context.request_id = Some(request_id.to_owned());
    if let Some(principal) = principal {
        context.authorizer.fields = to_context(principal).into_iter().collect();
    }
    RequestContext::ApiGatewayV1(context)
}

/// Who the request speaks for.
///
/// # Errors
/// `unauthorized` where the request did not pass the authorizer.
pub fn of(request: &lambda_http::Request) -> AppResult<Principal> {
    let fields =
        request.request_context_ref().and_then(RequestContext::authorizer).map(|found| &found.fields);
    let text = |name: &str| fields.and_then(|fields| fields.get(name)).and_then(Value::as_str);
    let owner = text(OWNER).and_then(|owner| OwnerId::parse(owner).ok());
    let scope = match text(SCOPE) {
        Some("read") => Some(Scope::Read),
        Some("write") => Some(Scope::Write),
        Some("admin") => Some(Scope::Admin),
        _ => None,
    };
    let projects = match text(PROJECTS) {
        None => Some(None),
        // A list that does not read back must never widen into "all projects".
        Some(ids) => ids.split(',').map(|id| id.parse().ok()).collect::<Option<Vec<ProjectId>>>().map(Some),
    };
    match (owner, scope, projects) {
        (Some(owner), Some(scope), Some(projects)) => Ok(Principal { owner, scope, projects }),
        _ => Err(unauthorized()),
    }
}

/// The one answer to every token that is missing or not good.
pub fn unauthorized() -> AppError {
    let detail = "Send `Authorization: Bearer` with an API key or a token of the configured issuer.";
    AppError::new(ErrorCode::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use pvm_domain::ids::PrefixedId;

    use super::*;

    fn request(principal: Option<&Principal>) -> lambda_http::Request {
        lambda_http::Request::default().with_request_context(request_context(principal, "r"))
    }

    #[test]
    fn a_principal_survives_the_gateways_flat_map() {
        let confined = Principal {
            owner: OwnerId::parse("auth0|x").unwrap(),
            scope: Scope::Write,
            projects: Some(vec![ProjectId::from_parts(1, 1), ProjectId::from_parts(2, 2)]),
        };
        assert_eq!(of(&request(Some(&confined))).unwrap(), confined);
        let free = Principal { projects: None, ..confined };
        assert_eq!(of(&request(Some(&free))).unwrap(), free);
    }

    #[test]
    fn a_request_without_a_principal_or_with_a_broken_one_is_refused() {
        assert_eq!(of(&request(None)).unwrap_err().code, ErrorCode::Unauthorized);
        let mut context = ApiGatewayProxyRequestContext::default();
        let fields = [("owner", "a"), ("scope", "write"), ("projects", "")];
        context.authorizer.fields = fields.map(|(name, text)| (name.to_owned(), text.into())).into();
        let request =
            lambda_http::Request::default().with_request_context(RequestContext::ApiGatewayV1(context));
        assert_eq!(of(&request).unwrap_err().code, ErrorCode::Unauthorized);
    }
}
