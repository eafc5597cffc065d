//! What API Gateway answers by itself.

use pvm_tests::aws::AwsStack;
use serde_json::json;

/// No token, a wrong one, an unknown path: problem documents with our codes. An answer of the authorizer is kept, and
/// must still be right for another route.
pub(crate) async fn problems(aws: &AwsStack) {
    let api = &aws.api;
    for key in ["", "pvm_wrong", "not.a.jwt"] {
        let answer = api.with_key(key).get("/api/projects").await;
        assert!(answer.header("www-authenticate").is_some());
        answer.problem(401, "unauthorized");
    }
    api.get("/api/nowhere").await.problem(404, "not_found");
    api.with_key("").get("/healthz").await.expect(200);
    // The same token on several routes and methods: the kept policy covers them all.
    let project = api.project("gateway").await;
    api.get(&project).await.expect(200);
    api.put(&project, json!({"description": "x"})).await.expect(200);
    api.get(&format!("{project}/files")).await.expect(200);
    // A ticket stands for the token on the route that it is for, and on no other.
    let path = format!("{project}/events");
    let made = api.post(&format!("{project}/stream-ticket"), json!({"path": path})).await.expect(200);
    let ticket = made["ticket"].as_str().unwrap();
    let nobody = api.with_key("");
    nobody.get(&format!("{path}?ticket={ticket}")).await.expect(200);
    nobody.get(&format!("{path}?ticket=forged")).await.problem(401, "unauthorized");
    nobody.get(&format!("{project}?ticket={ticket}")).await.problem(401, "unauthorized");
    // MCP asks for 405 here, and not for 404.
    assert_eq!(api.get(&format!("{project}/mcp")).await.status, 405);
}
