//! Errors that API Gateway tells by itself look like ours.

use pvm_application::error::ErrorCode;
use serde_json::Value;

use crate::template::TEMPLATE;

#[test]
fn answers_of_the_gateway_are_problem_documents_with_public_codes() {
    let responses = TEMPLATE.properties("Api")["GatewayResponses"].as_object().unwrap();
    for (kind, response) in responses {
        let template = response["ResponseTemplates"]["application/json"].as_str().unwrap();
        // The one variable that API Gateway fills in with its quotes.
        let document = template.replace("$context.error.messageString", "\"text\"");
        let document: Value =
            serde_json::from_str(&document).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let code = ErrorCode::ALL.iter().find(|code| document["code"] == code.as_str());
        let code = code.unwrap_or_else(|| panic!("{kind}: {} is not a public code", document["code"]));
        assert_eq!(document["title"], code.title(), "{kind}");
        assert_eq!(document["status"], code.status(), "{kind}");
        assert_eq!(response["StatusCode"], code.status(), "{kind}");
        assert_eq!(document["type"], format!("/docs/errors/{}", code.as_str()), "{kind}");
        for field in ["detail", "instance", "request_id"] {
            assert!(document[field].is_string(), "{kind}: no {field}");
        }
        let headers = &response["ResponseParameters"]["Headers"];
        assert_eq!(headers["Content-Type"], "'application/problem+json'", "{kind}");
        let retried = matches!(code, ErrorCode::Unavailable | ErrorCode::LimitReached);
        assert_eq!(headers["Retry-After"].is_string(), retried, "{kind}: Retry-After");
        assert_eq!(!headers["WWW-Authenticate"].is_null(), *code == ErrorCode::Unauthorized, "{kind}");
    }
    for needed in
        ["UNAUTHORIZED", "ACCESS_DENIED", "MISSING_AUTHENTICATION_TOKEN", "DEFAULT_4XX", "DEFAULT_5XX"]
    {
        assert!(responses.contains_key(needed), "no answer for {needed}");
    }
}
