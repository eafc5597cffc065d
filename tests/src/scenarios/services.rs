//! Services: ready, reachable, told truly, brought back.

use serde_json::json;

use crate::api::Api;

const SERVER: &str = "python3 -m http.server $PORT";

/// A web server is started, listed, fetched through its URL, and stopped.
pub async fn web_server(api: &Api) {
    let path = api.project("services").await;
    api.shell(&path, "echo hello > index.html").await;
    let asked = json!({"name": "web", "command": SERVER, "port": 8000, "ready": {"http_path": "/"}});
    let made = api.post(&format!("{path}/services"), asked.clone()).await.expect(201);
    assert_eq!(made["status"], "running", "{made}");
    assert_eq!(fetch(api, made["url"].as_str().unwrap()).await, (200, "hello\n".to_owned()));
    api.post(&format!("{path}/services"), asked).await.problem(409, "conflict");
    let status = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!(status["services"][0]["name"], "web");
    let id = made["service_id"].as_str().unwrap();
    let logs = api.get(&format!("{path}/services/{id}/logs")).await.expect(200);
    assert!(logs["stderr"].as_str().unwrap().contains("GET /"), "{logs}");
    assert!(api.delete(&format!("{path}/services/{id}")).await.status < 300);
    assert_eq!(api.get(&format!("{path}/services")).await.expect(200)["items"], json!([]));
    let after = api.run(&path, json!({"command": "(exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null"})).await;
    assert_ne!(after["exit_code"], 0, "something still listens");
}

/// A program that ends at once is `failed`, with what it said.
pub async fn failure(api: &Api) {
    let path = api.project("failing").await;
    let asked =
        json!({"name": "bad", "command": "echo no such thing >&2; exit 7", "port": 9000, "restart": "no"});
    let made = api.post(&format!("{path}/services"), asked).await.expect(201);
    assert_eq!(made["status"], "failed", "{made}");
    let reason = made["reason"].as_str().unwrap();
    assert!(reason.contains('7') && reason.contains("no such thing"), "{reason}");
}

/// After the VM is gone, the next use brings the service back.
pub async fn brought_back(api: &Api) {
    let path = api.project("back").await;
    api.shell(&path, "echo again > index.html").await;
    let asked = json!({"name": "web", "command": SERVER, "port": 8000});
    api.post(&format!("{path}/services"), asked).await.expect(201);
    api.delete(&format!("{path}/vm")).await;
    while api.get(&format!("{path}/status")).await.expect(200)["vm_status"] != "none" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    api.shell(&path, "true").await;
    let service = loop {
        let list = api.get(&format!("{path}/services")).await.expect(200);
        if list["items"][0]["status"] == "running" {
            break list["items"][0].clone();
        }
        assert_ne!(list["items"][0]["status"], "failed", "{list}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(fetch(api, service["url"].as_str().unwrap()).await, (200, "again\n".to_owned()));
}

/// Fetches a service's URL. `*.localhost` is this machine, whatever the resolver thinks.
pub async fn fetch(api: &Api, url: &str) -> (u16, String) {
    let url = url::Url::parse(url).unwrap();
    let host = url.host_str().unwrap();
    let mut builder = reqwest::Client::builder().no_proxy().cookie_store(true);
    if host.ends_with(".localhost") {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], url.port_or_known_default().unwrap()));
        builder = builder.resolve(host, address);
    }
    let _ = api;
    let answer = builder.build().unwrap().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}
