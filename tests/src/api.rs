//! A client of the HTTP API for tests: every answer with status, headers and body.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// Talks to one stack with one key.
#[derive(Debug, Clone)]
pub struct Api {
    /// The plain client.
    pub http: reqwest::Client,
    /// Address of the API.
    pub url: String,
    /// The key that requests carry; empty for none.
    pub key: String,
    /// Whose key that is.
    pub owner: String,
    /// Key of the install's operator; `None` where the owner operates it.
    pub operator_key: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body; `null` where it is empty or not JSON.
    pub body: Value,
}

impl Answer {
    /// The body, after checking the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Checks that the answer is a problem of this kind: media type, fields, status in the body.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let kind = self.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "{kind}: {}", self.body);
        assert_eq!(self.body["code"], code, "{}", self.body);
        assert_eq!(self.body["status"], status, "{}", self.body);
        for field in ["type", "title", "detail", "instance"] {
            assert!(self.body[field].is_string(), "no {field}: {}", self.body);
        }
        self.body
    }

    /// Checks that the answer refuses this field.
    #[track_caller]
    pub fn refuses(self, field: &str) {
        let body = self.problem(422, "invalid");
        assert_eq!(body["field"], field, "{body}");
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Api {
    /// A client of an embedded install's API at `url` with `key`, whose owner operates the install.
    pub fn new(url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (url, key, owner) = (url.to_owned(), key.to_owned(), "local".to_owned());
        Self { http, url, key, owner, operator_key: None }
    }

    /// The same API with the key of another owner; this client's key becomes the operator's.
    #[must_use]
    pub fn operating(&self, owner: &str, key: &str) -> Self {
        let (owner, operator_key) = (owner.to_owned(), Some(self.key.clone()));
        Self { key: key.to_owned(), owner, operator_key, ..self.clone() }
    }

    /// The same API with the operator's key.
    #[must_use]
    pub fn operator(&self) -> Self {
        self.with_key(self.operator_key.as_ref().unwrap_or(&self.key))
    }

    /// The same API with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.key.is_empty() { request } else { request.bearer_auth(&self.key) }
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null);
        Answer { status, headers, body }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }
    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }
    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }
    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Makes a project without a VM; answers its path.
    pub async fn project(&self, name: &str) -> String {
        let made = self.post("/api/projects", json!({"name": name})).await.expect(201);
        format!("/api/projects/{}", made["project_id"].as_str().unwrap())
    }

    /// Runs a shell line in the project's VM to its end; answers the command.
    pub async fn run(&self, project: &str, body: Value) -> Value {
        let answer = self.post(&format!("{project}/vm/command"), body).await;
        assert!(answer.status == 200 || answer.status == 202, "{}", answer.body);
        let mut command = answer.body;
        let id = command["command_id"].as_str().unwrap().to_owned();
        while command["status"] == "running" {
            command = self.get(&format!("{project}/vm/commands/{id}?wait=20")).await.expect(200);
        }
        command
    }

    /// Standard output of a shell line that must succeed.
    pub async fn shell(&self, project: &str, line: &str) -> String {
        let command = self.run(project, json!({"command": line})).await;
        assert_eq!(command["exit_code"], 0, "{command}");
        command["stdout"].as_str().unwrap().to_owned()
    }

    /// All events of a log up to now.
    pub async fn events(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let page = self.get(&format!("{path}?after={after}")).await.expect(200);
            let events = page["events"].as_array().unwrap().clone();
            if events.is_empty() {
                return all;
            }
            after = page["next_after"].as_u64().unwrap();
            all.extend(events.into_iter().filter(|event| event["seq"].is_u64()));
        }
    }

    /// Waits by long poll until the log has an event that `enough` accepts; answers all durable events up to then.
    pub async fn events_until(&self, path: &str, enough: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        let mut after = 0;
        // 30 polls of up to 20 s that bring nothing: a bound for a hang, not a timing.
        let mut silent = 0;
        while silent < 30 {
            let page = self.get(&format!("{path}?after={after}&wait=20")).await.expect(200);
            after = page["next_after"].as_u64().unwrap();
            let events = page["events"].as_array().unwrap();
            silent += u32::from(events.is_empty());
            all.extend(events.iter().filter(|event| event["seq"].is_u64()).cloned());
            if all.iter().any(&enough) {
                return all;
            }
        }
        panic!("the event never came; there were {all:#?}");
    }
}

/// Checks that a log's numbers are 1, 2, 3 ...
#[track_caller]
pub fn assert_gap_free(events: &[Value]) {
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}
