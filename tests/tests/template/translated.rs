//! What SAM makes of the template: some of its properties are passed over in silence when they are written wrongly.

use std::process::Command;
use std::sync::LazyLock;

use pvm_tests::aws::tools;
use serde_json::Value;

use crate::template::TEMPLATE;

static TRANSLATED: LazyLock<Value> = LazyLock::new(|| {
    let python = tools().join("emulator/bin/python");
    let mut translate = Command::new(python);
    translate.args(["scripts/aws-tools/translate.py", "template.yaml"]);
    let ran = translate.current_dir(crate::root()).env("AWS_DEFAULT_REGION", "us-east-1").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
});

fn operation(path: &str, method: &str) -> &'static Value {
    &TRANSLATED["Resources"]["Api"]["Properties"]["Body"]["paths"][path][method.to_lowercase()]
}

#[test]
fn streaming_routes_stream_and_others_do_not() {
    for route in TEMPLATE.functions.values().flat_map(|function| &function.routes) {
        let integration = &operation(&route.path, &route.method)["x-amazon-apigateway-integration"];
        let streams = integration["responseTransferMode"] == "STREAM";
        assert_eq!(streams, route.stream, "{} {}: {integration}", route.method, route.path);
        // Unless told otherwise the gateway ends a stream after 29 seconds like any answer; 15 minutes is the most.
        let most = if route.stream { Value::from(900_000) } else { Value::Null };
        assert_eq!(integration["timeoutInMillis"], most, "{} {}", route.method, route.path);
    }
}

#[test]
fn a_route_without_a_token_is_open_on_purpose_and_a_preflight_always() {
    for route in TEMPLATE.functions.values().flat_map(|function| &function.routes) {
        let security = &operation(&route.path, &route.method)["security"];
        let open = security.as_array().is_none_or(Vec::is_empty) || security.to_string().contains("NONE");
        assert_eq!(open, route.authorizer == "NONE", "{} {}: {security}", route.method, route.path);
        let preflight = operation(&route.path, "options");
        assert!(preflight.is_object(), "{}: no OPTIONS", route.path);
        assert!(preflight["security"].is_null(), "{}: OPTIONS needs a token", route.path);
    }
}

#[test]
fn the_stack_keeps_within_the_limits_of_cloudformation() {
    let count = |part: &str| TRANSLATED[part].as_object().map_or(0, serde_json::Map::len);
    assert!(count("Resources") <= 500, "{} resources, at most 500 fit into a stack", count("Resources"));
    assert!(count("Parameters") <= 200 && count("Outputs") <= 200);
    let size = TRANSLATED.to_string().len();
    assert!(size <= 1_000_000, "the template has {size} bytes, at most 1 MB");
}

/// AWS's own policies in a role are the two that SAM adds for logs and traces.
#[test]
fn roles_carry_our_policies_and_the_two_of_sam() {
    const OF_SAM: &[&str] =
        &["AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess", "AWSXRayDaemonWriteAccess"];
    for (id, role) in TRANSLATED["Resources"].as_object().unwrap() {
        let attached = role["Properties"]["ManagedPolicyArns"].as_array().map_or(0, Vec::len);
        assert!(attached <= 10, "{id} has {attached} policies; AWS attaches 10 at most without being asked");
        for policy in role["Properties"]["ManagedPolicyArns"].as_array().into_iter().flatten() {
            let ours = policy["Ref"].is_string();
            let of_sam = OF_SAM.iter().any(|name| policy.as_str().is_some_and(|arn| arn.ends_with(name)));
            assert!(ours || of_sam, "{id}: {policy}");
        }
    }
}
