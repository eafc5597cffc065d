//! The demo's HTTP client: nothing that a user with curl could not do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::StreamExt;
use reqwest::{Method, Response};
use serde_json::Value;

/// Talks to one stack.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Client {
    pub(super) fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).no_proxy().build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    async fn json(&self, request: reqwest::RequestBuilder, what: &str) -> anyhow::Result<Value> {
        let answer = request.timeout(Duration::from_mins(1)).send().await.with_context(|| what.to_owned())?;
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "{what}: {status}: {body}");
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_str(&body)? })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.request(Method::GET, path), &format!("GET {path}")).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.json(self.request(Method::POST, path).json(body), &format!("POST {path}")).await
    }

    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.request(Method::DELETE, path), &format!("DELETE {path}")).await
    }

    pub(super) async fn status_of(&self, path: &str) -> anyhow::Result<u16> {
        Ok(self.request(Method::GET, path).send().await?.status().as_u16())
    }

    pub(super) async fn upload(&self, path: &str, bytes: &'static [u8]) -> anyhow::Result<Value> {
        let request =
            self.request(Method::POST, path).header("content-type", "application/octet-stream").body(bytes);
        self.json(request, &format!("POST {path}")).await
    }

    /// Follows an event stream until `enough` says so; answers that event. A stream that closes is taken up again after
    /// the last event, and a server that cannot stream is asked by long poll.
    pub(super) async fn events(
        &self,
        path: &str,
        mut enough: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = 0u64;
        loop {
            let request = self.request(Method::GET, &format!("{path}?after={last}&wait=20"));
            let request = request.header("accept", "text/event-stream, application/json");
            let answer = request.header("last-event-id", last.to_string()).send().await?;
            ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
            let kind =
                answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let found = if kind.starts_with("text/event-stream") {
                read(answer, &mut last, &mut enough).await?
            } else {
                // Something on the way takes answers whole, such as an emulator of API Gateway.
                page(&answer.json().await?, &mut last, &mut enough)?
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Registers and logs in at the web app behind a service's URL, as a browser would.
    pub(super) async fn log_in(&self, url: &str, user: &str, password: &str) -> anyhow::Result<()> {
        let url = url::Url::parse(url)?;
        let browser = browser(&url)?;
        let page = |path: &str| {
            let mut page = url.clone();
            page.set_path(path);
            page
        };
        let login = text(browser.get(page("/login")).send().await?).await?;
        ensure!(
            login.contains("name=\"password\"") && login.contains("Log in"),
            "the login page has no form: {login}"
        );
        let form = [("username", user), ("password", password)];
        let dashboard = text(browser.get(page("/dashboard")).send().await?).await?;
        ensure!(dashboard.contains("name=\"password\""), "the dashboard is open without login");
        text(browser.post(page("/register")).form(&form).send().await?).await?;
        let wrong = [("username", user), ("password", "wrong password")];
        let refused = text(browser.post(page("/login")).form(&wrong).send().await?).await?;
        ensure!(refused.contains("Wrong user name or password"), "a wrong password was not refused");
        let inside = text(browser.post(page("/login")).form(&form).send().await?).await?;
        ensure!(
            inside.contains(user) && inside.contains("2015"),
            "the dashboard did not come after login: {inside}"
        );
        Ok(())
    }
}

async fn text(answer: Response) -> anyhow::Result<String> {
    let (status, url) = (answer.status(), answer.url().path().to_owned());
    let body = answer.text().await?;
    ensure!(status.is_success(), "{url}: {status}: {body}");
    Ok(body)
}

/// A client with cookies. `*.localhost` is this machine (RFC 6761), whatever the resolver thinks.
fn browser(url: &url::Url) -> anyhow::Result<reqwest::Client> {
    let mut builder =
        reqwest::Client::builder().cookie_store(true).no_proxy().timeout(Duration::from_secs(20));
    let host = url.host_str().context("the service's URL has no host")?;
    if host.ends_with(".localhost") {
        let port = url.port_or_known_default().unwrap_or(80);
        builder = builder.resolve(host, SocketAddr::from(([127, 0, 0, 1], port)));
    }
    Ok(builder.build()?)
}

/// Looks at one event, whose number must follow the last one's.
fn take(event: &Value, last: &mut u64, enough: &mut impl FnMut(&Value) -> bool) -> anyhow::Result<bool> {
    if let Some(seq) = event["seq"].as_u64() {
        ensure!(seq == *last + 1, "event {seq} came after {last}");
        *last = seq;
    }
    Ok(enough(event))
}

/// The event of a page that is enough, if it has come.
fn page(
    page: &Value,
    last: &mut u64,
    enough: &mut impl FnMut(&Value) -> bool,
) -> anyhow::Result<Option<Value>> {
    for event in page["events"].as_array().context("the answer has no events")? {
        if take(event, last, enough)? {
            return Ok(Some(event.clone()));
        }
    }
    Ok(None)
}

async fn read(
    answer: Response,
    last: &mut u64,
    enough: &mut impl FnMut(&Value) -> bool,
) -> anyhow::Result<Option<Value>> {
    let (mut bytes, mut text) = (answer.bytes_stream(), Vec::new());
    while let Some(chunk) = bytes.next().await {
        let Ok(chunk) = chunk else { return Ok(None) };
        text.extend_from_slice(&chunk);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = text.drain(..end + 2).collect();
            let block = String::from_utf8(block)?;
            let data: Vec<&str> =
                block.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
            if data.is_empty() {
                continue;
            }
            let event: Value = serde_json::from_str(&data.join("\n"))?;
            if take(&event, last, enough)? {
                return Ok(Some(event));
            }
        }
    }
    Ok(None)
}
