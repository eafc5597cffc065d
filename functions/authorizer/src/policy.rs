//! The Lambda authorizer's answers: who it is, and what API Gateway may let pass.

use std::time::Instant;

use lambda_runtime::{Diagnostic, LambdaEvent};
use pvm_application::error::{AppError, ErrorCode};
use pvm_application::ports::Clock;
use pvm_application::store::ReadStore;
use pvm_domain::key::Principal;
use pvm_entry::{principal, ticket};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::Instrument as _;

use crate::authorizer::{Authorizer, Credentials};
use crate::jwks::FetchJson;

/// What API Gateway sends: a TOKEN authorizer's event has the token alone, a REQUEST authorizer's the whole request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    method_arn: String,
    #[serde(default)]
    authorization_token: Option<String>,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    query_string_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    path: Option<String>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event").field("method_arn", &self.method_arn).finish_non_exhaustive()
    }
}

/// The answer: a policy and the context that functions get.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    principal_id: String,
    policy_document: Value,
    context: Map<String, Value>,
}

/// Answers an invocation, in a span of its own and with one line about it, which never names the token.
///
/// # Errors
/// As [`answer`].
pub async fn invoke<S: ReadStore, C: Clock, F: FetchJson>(
    authorizer: &Authorizer<S, C, F>,
    event: LambdaEvent<Event>,
) -> Result<Answer, Diagnostic> {
    let span = tracing::info_span!(
        "authorize",
        "function.name" = "authorizer",
        "request.id" = event.context.request_id
    );
    async move {
        let started = Instant::now();
        let outcome = answer(authorizer, event.payload).await;
        let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
        match &outcome {
            Ok(answer) => tracing::info!(duration_ms, owner = answer.principal_id, "let in"),
            Err(error) => tracing::info!(duration_ms, reason = error.error_type, "turned away"),
        }
        outcome
    }
    .instrument(span)
    .await
}

/// Answers an event.
///
/// # Errors
/// A bad token is the error message `Unauthorized`, exactly: API Gateway makes a 401 of it and of nothing else.
pub async fn answer<S: ReadStore, C: Clock, F: FetchJson>(
    authorizer: &Authorizer<S, C, F>,
    event: Event,
) -> Result<Answer, Diagnostic> {
    let header = text(event.headers.as_ref(), "authorization");
    let credentials = Credentials {
        authorization: event.authorization_token.as_deref().or(header),
        ticket: text(event.query_string_parameters.as_ref(), ticket::PARAMETER),
        path: event.path.as_deref().unwrap_or_default(),
    };
    let with_ticket = credentials.authorization.is_none();
    let principal = authorizer.authenticate(credentials).await.map_err(failed)?;
    // API Gateway keeps the policy for the token and asks again only for another one, so it must hold for the whole
    // stage; a ticket is good for one path alone.
    let resource = if with_ticket { event.method_arn } else { whole_stage(&event.method_arn) };
    Ok(allow(&principal, &resource))
}

fn text<'a>(map: Option<&'a Map<String, Value>>, name: &str) -> Option<&'a str> {
    map?.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).and_then(|(_, value)| value.as_str())
}

fn allow(principal: &Principal, resource: &str) -> Answer {
    Answer {
        principal_id: principal.owner.to_string(),
        policy_document: json!({
            "Version": "2012-10-17",
            "Statement": [{"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": resource}],
        }),
        context: principal::to_context(principal),
    }
}

/// `arn:..:api/stage/METHOD/path` -> `arn:..:api/stage/*/*`.
fn whole_stage(method_arn: &str) -> String {
    let mut parts = method_arn.splitn(3, '/');
    match (parts.next(), parts.next()) {
        (Some(api), Some(stage)) => format!("{api}/{stage}/*/*"),
        _ => method_arn.to_owned(),
    }
}

fn failed(error: AppError) -> Diagnostic {
    if error.code == ErrorCode::Unauthorized {
        return Diagnostic {
            error_type: "Unauthorized".to_owned(),
            error_message: "Unauthorized".to_owned(),
        };
    }
    tracing::error!(cause = error.source.as_ref().map(|source| format!("{source:#}")), "{}", error.detail);
    Diagnostic { error_type: error.code.as_str().to_owned(), error_message: error.detail }
}

#[cfg(test)]
mod tests {
    use pvm_domain::ids::OwnerId;
    use pvm_domain::project::Scope;

    use super::*;

    #[test]
    fn a_policy_covers_the_stage_and_nothing_else() {
        let arn = "arn:aws:execute-api:eu-central-1:123456789012:abc/prod/GET/api/projects/prj_1";
        assert_eq!(whole_stage(arn), "arn:aws:execute-api:eu-central-1:123456789012:abc/prod/*/*");
    }

    #[test]
    fn the_context_is_flat_text() {
        let principal = Principal { owner: OwnerId::parse("a").unwrap(), scope: Scope::Read, projects: None };
        let answer = serde_json::to_value(allow(&principal, "arn")).unwrap();
        assert_eq!(answer["principalId"], "a");
        assert!(answer["context"].as_object().unwrap().values().all(Value::is_string));
    }

    #[test]
    fn a_bad_token_is_the_one_message_that_becomes_a_401() {
        assert_eq!(failed(pvm_entry::principal::unauthorized()).error_message, "Unauthorized");
        assert_ne!(failed(AppError::new(ErrorCode::Unavailable, "away")).error_message, "Unauthorized");
    }
}
