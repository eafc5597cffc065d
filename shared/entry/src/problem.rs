//! Errors as the caller sees them: RFC 9457 problem documents.

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use pvm_application::error::{AppError, ErrorCode};
use pvm_contracts::problem::{PROBLEM_JSON, Problem};

use crate::reply::{Reply, ReplyBody};

/// The problem document of an error; its cause stays in the log.
pub fn document(error: &AppError, instance: &str, request_id: &str) -> Problem {
    Problem {
        kind: format!("/docs/errors/{}", error.code.as_str()),
        title: error.code.title().to_owned(),
        status: error.code.status(),
        detail: error.detail.clone(),
        instance: instance.to_owned(),
        code: error.code.as_str().to_owned(),
        field: error.field.clone(),
        limit: error.limit,
        request_id: request_id.to_owned(),
    }
}

/// The answer that tells an error.
pub fn reply(error: &AppError, instance: &str, request_id: &str) -> Reply {
    let body = serde_json::to_vec(&document(error, instance, request_id)).unwrap_or_default();
    let mut reply = Response::new(ReplyBody::Bytes(body.into()));
    *reply.status_mut() =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(wait) = error.retry_after {
        // Whole seconds, rounded up: coming back too early only earns another refusal.
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(secs.max(1)));
    }
    if error.code == ErrorCode::Unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pvm\""));
    }
    reply
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_error_becomes_a_problem_with_its_code_and_when_to_come_back() {
        let error =
            AppError::new(ErrorCode::Unavailable, "Try again.").retry_after(Duration::from_millis(1_200));
        let reply = reply(&error, "/api/projects", "req-1");
        assert_eq!(reply.status(), 503);
        assert_eq!(reply.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(reply.headers()[RETRY_AFTER], "2");
        let ReplyBody::Bytes(body) = reply.into_body() else { panic!("a problem is not a stream") };
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.kind, "/docs/errors/unavailable");
        assert_eq!((problem.code.as_str(), problem.instance.as_str()), ("unavailable", "/api/projects"));
    }

    #[test]
    fn a_missing_token_is_answered_with_how_to_send_one_and_causes_are_not_told() {
        let error =
            AppError::new(ErrorCode::Unauthorized, "No token.").because(anyhow::anyhow!("inner secret"));
        let reply = reply(&error, "/", "r");
        assert!(reply.headers().contains_key(WWW_AUTHENTICATE));
        let ReplyBody::Bytes(body) = reply.into_body() else { panic!("a problem is not a stream") };
        assert!(!String::from_utf8_lossy(&body).contains("inner"));
    }

    #[test]
    fn a_broken_field_is_named() {
        let problem = document(&AppError::invalid("name", "must not be empty"), "/x", "r");
        assert_eq!((problem.status, problem.field.as_deref()), (422, Some("name")));
    }
}
