//! Faults of the VM service, on demand: a proxy before its control plane that fails the requests it is told to fail.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;

/// Which requests fail, how, and how often.
#[derive(Debug, Clone)]
pub struct Fault {
    /// HTTP method.
    pub method: &'static str,
    /// The path must be this.
    pub path: &'static str,
    /// The body must have this somewhere.
    pub body_has: String,
    /// The answer's status.
    pub status: u16,
    /// How many more requests fail.
    pub times: u32,
}

/// The proxy.
#[derive(Debug, Clone)]
pub struct Faults {
    address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    to: String,
    http: reqwest::Client,
    faults: Mutex<Vec<Fault>>,
    seen: Mutex<Vec<(String, String, String)>>,
}

impl Faults {
    /// Starts the proxy before the control plane at `to`.
    pub async fn start(to: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let inner =
            Arc::new(Inner { to: to.to_owned(), http, faults: Mutex::default(), seen: Mutex::default() });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, inner }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes requests fail from now on.
    pub fn fail(&self, fault: Fault) {
        self.inner.faults.lock().unwrap().push(fault);
    }

    /// Ends the faults about `body_has`.
    pub fn mend(&self, body_has: &str) {
        self.inner.faults.lock().unwrap().retain(|fault| fault.body_has != body_has);
    }

    /// How many requests of this kind came, failed ones too.
    pub fn seen(&self, method: &str, path: &str, body_has: &str) -> usize {
        let seen = self.inner.seen.lock().unwrap();
        seen.iter().filter(|it| it.0 == method && it.1 == path && it.2.contains(body_has)).count()
    }
}

impl Inner {
    /// The status with which a request fails, if it does.
    fn failing(&self, method: &str, path: &str, body: &str) -> Option<u16> {
        let mut faults = self.faults.lock().unwrap();
        let fits = |fault: &&mut Fault| {
            fault.times > 0 && fault.method == method && fault.path == path && body.contains(&fault.body_has)
        };
        let fault = faults.iter_mut().find(fits)?;
        fault.times -= 1;
        Some(fault.status)
    }
}

async fn pass(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.as_str().to_owned(), parts.uri.path().to_owned());
    let body: Bytes = to_bytes(body, 1 << 20).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    inner.seen.lock().unwrap().push((method.clone(), path.clone(), text.clone()));
    if let Some(status) = inner.failing(&method, &path, &text) {
        let told = format!("{{\"code\": {status}, \"message\": \"made to fail by the test\"}}");
        return Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(told.into())
            .unwrap();
    }
    let url = format!("{}{}", inner.to, parts.uri);
    let mut onward = inner.http.request(parts.method, url).body(body);
    for (name, value) in parts.headers.iter().filter(|(name, _)| *name != "host" && *name != "content-length")
    {
        onward = onward.header(name, value);
    }
    let answer = onward.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}
