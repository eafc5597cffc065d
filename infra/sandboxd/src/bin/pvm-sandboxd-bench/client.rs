//! A plain HTTP client of a sandbox server.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pvm_e2b_wire::connect::{EnvelopeDecoder, encode_message};
use pvm_e2b_wire::control::Sandbox;
use pvm_e2b_wire::process::{
    ProcessConfig, ProcessInput, ProcessSelector, Pty, PtySize, SendInputRequest, StartRequest, StartResponse,
};

use super::{FILE_BYTES, Failure, KEY};

/// A plain HTTP/1.1 client on one connection.
pub(super) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(super) async fn connect(address: std::net::SocketAddr) -> Result<Self, Failure> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>, expected: StatusCode) -> Result<Bytes, Failure> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == expected {
            Ok(body)
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
        }
    }

    pub(super) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: &str,
        expected: StatusCode,
    ) -> Result<Bytes, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header("x-api-key", KEY)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        self.send(request, expected).await
    }

    pub(super) async fn create(&mut self, template: &str) -> Result<Sandbox, Failure> {
        let body = format!(r#"{{"templateID":"{template}","timeout":600}}"#);
        let answer = self.call(Method::POST, "/v2/sandboxes", &body, StatusCode::CREATED).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    pub(super) async fn kill(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let path = format!("/sandboxes/{}", sandbox.sandbox_id);
        self.call(Method::DELETE, &path, "", StatusCode::NO_CONTENT).await.map(|_| ())
    }

    fn data(
        sandbox: &Sandbox,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let token =
            sandbox.envd_access_token.as_ref().map(pvm_e2b_wire::secret::Secret::expose).unwrap_or_default();
        Ok(Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header("e2b-sandbox-id", &sandbox.sandbox_id)
            .header("e2b-sandbox-port", "49983")
            .header("x-access-token", token)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))?)
    }

    pub(super) async fn run_true(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let message = br#"{"process":{"cmd":"/bin/true","args":[],"envs":{}},"stdin":false}"#;
        let mut envelope = vec![0];
        envelope.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        envelope.extend_from_slice(message);
        let kind = "application/connect+json";
        let request = Self::data(sandbox, Method::POST, "/process.Process/Start", kind, envelope.into())?;
        let events = self.send(request, StatusCode::OK).await?;
        let text = String::from_utf8_lossy(&events);
        if text.contains("\"exited\":true") {
            Ok(())
        } else {
            Err(format!("the command did not end: {text}").into())
        }
    }

    pub(super) async fn upload(&mut self, sandbox: &Sandbox, contents: Bytes) -> Result<(), Failure> {
        let kind = "application/octet-stream";
        let request = Self::data(sandbox, Method::POST, "/files?path=/tmp/bench", kind, contents)?;
        self.send(request, StatusCode::OK).await.map(|_| ())
    }

    pub(super) async fn download(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let request = Self::data(sandbox, Method::GET, "/files?path=/tmp/bench", "", Bytes::new())?;
        self.0.ready().await?;
        let mut body = self.0.send_request(request).await?.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame?.data_ref().map_or(0, Bytes::len);
        }
        if received == FILE_BYTES { Ok(()) } else { Err(format!("{received} bytes came back").into()) }
    }

    /// Opens a terminal that sends back what it is sent.
    pub(super) async fn terminal(&mut self, sandbox: &Sandbox) -> Result<Terminal, Failure> {
        let message = StartRequest {
            process: ProcessConfig { cmd: "/bin/cat".into(), ..ProcessConfig::default() },
            pty: Some(Pty { size: Some(PtySize { cols: 80, rows: 24 }) }),
            ..StartRequest::default()
        };
        let kind = "application/connect+json";
        let body = encode_message(&message)?;
        let request = Self::data(sandbox, Method::POST, "/process.Process/Start", kind, body)?;
        self.0.ready().await?;
        let body = self.0.send_request(request).await?.into_body();
        let mut terminal = Terminal { body, decoder: EnvelopeDecoder::default(), pid: 0 };
        terminal.pid = terminal.next().await?.event.start.ok_or("no start event")?.pid;
        Ok(terminal)
    }

    /// Types into a terminal.
    pub(super) async fn type_in(
        &mut self,
        sandbox: &Sandbox,
        terminal: &Terminal,
        text: &[u8],
    ) -> Result<(), Failure> {
        let message = SendInputRequest {
            process: ProcessSelector::pid(terminal.pid),
            input: ProcessInput { pty: Some(text.to_vec().into()), ..ProcessInput::default() },
        };
        let body = serde_json::to_vec(&message)?.into();
        let kind = "application/json";
        let request = Self::data(sandbox, Method::POST, "/process.Process/SendInput", kind, body)?;
        self.send(request, StatusCode::OK).await.map(|_| ())
    }
}

/// A terminal's stream of events.
pub(super) struct Terminal {
    body: Incoming,
    decoder: EnvelopeDecoder,
    pid: u32,
}

impl Terminal {
    /// The next event.
    pub(super) async fn next(&mut self) -> Result<StartResponse, Failure> {
        loop {
            if let Some(envelope) = self.decoder.next_envelope()? {
                return Ok(serde_json::from_slice(&envelope.payload)?);
            }
            let frame = self.body.frame().await.ok_or("the terminal ended")??;
            self.decoder.push(frame.data_ref().ok_or("no data")?);
        }
    }
}
