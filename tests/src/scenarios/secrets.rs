//! Secrets: set, shown without their values, in force for their host only, gone with their project.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use serde_json::{Value, json};

use crate::api::Api;

/// A server on this machine's loopback that answers every request with its headers.
pub async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async |request: Request| {
        let line = |(name, value): (_, &axum::http::HeaderValue)| {
            format!("{name}: {}\n", value.to_str().unwrap_or("?"))
        };
        request.headers().iter().map(line).collect::<String>()
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// What a request of the VM to `url` looks like when it arrives.
async fn seen(api: &Api, project: &str, url: &str) -> String {
    api.shell(project, &format!("curl -sS -m 20 -x http://127.0.0.1:3128 --noproxy '' {url}")).await
}

/// Made, changed, listed, refused, deleted; the value goes in and never comes out.
pub async fn crud(api: &Api) {
    let path = api.project("secrets").await;
    let one = format!("{path}/secrets/GIT");
    let body = |value: &str| json!({"host": "Git.Example.com", "header": "Authorization", "value": value});
    let shown = |secret: &Value| {
        assert!(!secret.to_string().contains("hush"), "{secret}");
        (secret["host"].as_str().unwrap().to_owned(), secret["header"].as_str().unwrap().to_owned())
    };
    let normal = ("git.example.com".to_owned(), "authorization".to_owned());
    api.get(&one).await.problem(404, "not_found");
    assert_eq!(shown(&api.put(&one, body("hush-1")).await.expect(201)), normal);
    assert_eq!(shown(&api.put(&one, body("hush-2")).await.expect(200)), normal);
    assert_eq!(shown(&api.get(&one).await.expect(200)), normal);
    let listed = api.get(&format!("{path}/secrets")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    shown(&listed["items"][0]);
    // The same header for the same host from two secrets would be decided by chance.
    let taken = api.put(&format!("{path}/secrets/OTHER"), body("hush-3")).await.problem(409, "conflict");
    assert!(taken["detail"].as_str().unwrap().contains("GIT"), "{taken}");
    for (field, value) in [
        ("host", json!("*.example.com")),
        ("host", json!("https://a.example")),
        ("host", json!("")),
        ("header", json!("content-length")),
        ("header", json!("a b")),
        ("value", json!("")),
        ("value", json!("hush\nx: y")),
        ("value", json!("x".repeat(8193))),
    ] {
        let mut bad = body("hush-4");
        bad[field] = value;
        let refused = api.put(&format!("{path}/secrets/BAD"), bad).await;
        assert!(!refused.body.to_string().contains("hush"), "{}", refused.body);
        refused.refuses(field);
    }
    api.put(&format!("{path}/secrets/a%20b"), body("hush-5")).await.refuses("name");
    api.get(&format!("{path}/secrets/BAD")).await.problem(404, "not_found");
    for event in api.events(&format!("{path}/events")).await {
        assert!(!event.to_string().contains("hush"), "{event}");
    }
    assert_eq!(api.delete(&one).await.status, 204);
    api.delete(&one).await.problem(404, "not_found");
    assert_eq!(api.get(&format!("{path}/secrets")).await.expect(200)["items"], json!([]));
}

/// Put in force in a VM that runs, changed there, brought to a new VM, taken out of force; never inside.
pub async fn in_force(api: &Api) {
    let server = echo().await;
    let path = api.project("secrets in force").await;
    let (host, other) = (format!("http://localhost:{}/", server.port()), format!("http://{server}/"));
    let put = async |value: &str| {
        let body = json!({"host": "localhost", "header": "x-secret", "value": value});
        let status = api.put(&format!("{path}/secrets/TOKEN"), body).await.status;
        assert!(matches!(status, 200 | 201), "{status}");
    };
    // Before there is a VM: it has it from its first request on.
    put("s3cret-one").await;
    assert!(seen(api, &path, &host).await.contains("x-secret: s3cret-one"));
    assert!(!seen(api, &path, &other).await.contains("s3cret"), "another host of the same server");
    put("s3cret-two").await;
    assert!(seen(api, &path, &host).await.contains("x-secret: s3cret-two"), "a VM that runs has the new one");
    // What the VM sends under that name itself does not arrive.
    let own = format!("curl -sS -m 20 -x http://127.0.0.1:3128 --noproxy '' -H 'X-Secret: mine' {host}");
    assert!(!api.shell(&path, &own).await.contains("mine"));
    // The search's own command line is kept in the journal, so what it looks for is put together there.
    let search = json!({"user": "root", "command":
        "grep -rl \"s3cr\"\"et-\" /etc /run /tmp /home /root /workspace /proc/*/environ 2>/dev/null | wc -l"});
    assert_eq!(api.run(&path, search).await["stdout"], "0\n");
    api.delete(&format!("{path}/vm")).await;
    while api.get(&format!("{path}/status")).await.expect(200)["vm_status"] != "none" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(seen(api, &path, &host).await.contains("x-secret: s3cret-two"), "a new VM has it too");
    assert_eq!(api.delete(&format!("{path}/secrets/TOKEN")).await.status, 204);
    assert!(!seen(api, &path, &host).await.contains("s3cret"));
}
