//! The door to what runs inside: routing, private ports, streams.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use pvm_e2b_wire::control::Sandbox;
use pvm_e2b_wire::link;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lab::{Lab, eventually};

/// A web server inside that tells what it was asked, and turns `/upgrade` into an echo.
const SERVER: &str = r"
import os, socket, threading, time
def serve(c):
    data = b''
    while b'\r\n\r\n' not in data:
        piece = c.recv(65536)
        if not piece: return
        data += piece
    head, rest = data.split(b'\r\n\r\n', 1)
    if head.startswith(b'GET /upgrade'):
        c.sendall(b'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello ')
        c.sendall(rest)
        while True:
            piece = c.recv(65536)
            if not piece: break
            c.sendall(piece)
    elif head.startswith(b'GET /silent'):
        pass
    elif head.startswith(b'GET /hang'):
        open('/tmp/hanging', 'w').close()
        try: c.recv(1)
        except OSError: pass
        open('/tmp/let-go', 'w').close()
    elif head.startswith(b'GET /slow'):
        open('/tmp/asked', 'w').close()
        while not os.path.exists('/tmp/go'): time.sleep(0.01)
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow')
    else:
        c.sendall(b'HTTP/1.1 200 OK\r\nX-Inside: yes\r\nContent-Length: %d\r\n\r\n' % len(head) + head)
    c.close()
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 3000)); s.listen(50)
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

async fn with_server(lab: &Lab, sandbox: &Sandbox) {
    let mut request = Lab::request(sandbox, 49983, Method::POST, "/files?path=/tmp/server.py", SERVER);
    request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
    assert_eq!(lab.send(request).await.status, StatusCode::OK);
    lab.spawn(sandbox, "user", "exec /usr/bin/python3 /tmp/server.py").await;
    let token = sandbox.traffic_access_token.as_ref().map(|token| token.expose().to_owned());
    eventually("the server inside listens", async || {
        let mut request = Lab::request(sandbox, 3000, Method::GET, "/", "");
        if let Some(token) = &token {
            request.headers_mut().insert("e2b-traffic-access-token", token.parse().unwrap());
        }
        lab.send(request).await.status == StatusCode::OK
    })
    .await;
}

fn by_host(sandbox: &Sandbox, path: &str) -> http::request::Builder {
    Request::builder().uri(path).header("host", format!("3000-{}.localhost:8788", sandbox.sandbox_id))
}

fn send(request: http::request::Builder) -> Request<Full<Bytes>> {
    request.body(Full::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_reached_by_header_and_by_host_name() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    with_server(&lab, &sandbox).await;
    let by_header = lab.send(Lab::request(&sandbox, 3000, Method::GET, "/a?b=c", "")).await;
    assert!(by_header.text().starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", by_header.text());
    let answer = lab.send(send(by_host(&sandbox, "/x"))).await;
    assert_eq!(answer.headers["x-inside"], "yes");
    let head = answer.text().to_ascii_lowercase();
    assert!(head.contains(&format!("host: 3000-{}.localhost:8788", sandbox.sandbox_id)), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_told_in_the_sdks_words() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let closed = lab.send(Lab::request(&sandbox, 4000, Method::GET, "/", "")).await;
    assert_eq!(closed.status, StatusCode::BAD_GATEWAY);
    assert_eq!(
        closed.json(),
        json!({"sandboxId": sandbox.sandbox_id, "message": "The sandbox is running but port is not open", "code": 502, "port": 4000})
    );
    let interpreter = lab.send(Lab::request(&sandbox, 49999, Method::POST, "/execute", "{}")).await;
    assert!(interpreter.json()["message"].as_str().unwrap().contains("code interpreter"));
    let mut gone = sandbox.clone();
    gone.sandbox_id = "inothere".into();
    let missing = lab.send(Lab::request(&gone, 3000, Method::GET, "/", "")).await;
    assert_eq!(
        missing.json(),
        json!({"sandboxId": "inothere", "message": "The sandbox was not found", "code": 502})
    );
    let as_browser = |sandbox: &Sandbox, port: u16| {
        let mut request = Lab::request(sandbox, port, Method::GET, "/", "");
        let agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)";
        request.headers_mut().insert("user-agent", agent.parse().unwrap());
        request
    };
    for (sandbox, port, words) in
        [(&sandbox, 4000, "no service running on port"), (&gone, 3000, "Sandbox Not Found")]
    {
        let page = lab.send(as_browser(sandbox, port)).await;
        assert_eq!(
            (page.status.as_u16(), &page.headers["content-type"]),
            (502, &"text/html; charset=utf-8".parse().unwrap())
        );
        let text = page.text();
        assert!(text.starts_with("<html") && text.ends_with("</html>"), "{text}");
        assert!(text.contains(words) && text.contains(&sandbox.sandbox_id), "{text}");
    }
    with_server(&lab, &sandbox).await;
    let silent = lab.send(Lab::request(&sandbox, 3000, Method::GET, "/silent", "")).await;
    assert_eq!(silent.status, StatusCode::BAD_GATEWAY);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgraded_connections_pass_bytes_both_ways() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    with_server(&lab, &sandbox).await;
    let mut stream = tokio::net::TcpStream::connect(lab.address()).await.unwrap();
    let head = format!(
        "GET /upgrade HTTP/1.1\r\nHost: 3000-{}.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        sandbox.sandbox_id
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello ") {
        seen.push(stream.read_u8().await.unwrap());
    }
    assert!(seen.starts_with(b"HTTP/1.1 101"));
    let message = vec![42_u8; 1 << 20];
    let (mut reader, mut writer) = stream.split();
    let mut back = vec![0_u8; message.len()];
    let (sent, received) = tokio::join!(writer.write_all(&message), reader.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    assert!(back == message);
    lab.finish().await;
}

/// Sends a request for a path of the server inside on a connection of its own, and waits until it has arrived there.
async fn ask_slowly(
    lab: &Lab,
    sandbox: &Sandbox,
    path: &str,
    arrived: &str,
    head: &str,
) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(lab.address()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: 3000-{}.localhost\r\n{head}\r\n", sandbox.sandbox_id);
    stream.write_all(head.as_bytes()).await.unwrap();
    lab.sh(sandbox, &format!("until [ -e {arrived} ]; do sleep 0.02; done")).await.ok();
    stream
}

/// Hangs up as a client does whose machine goes down hard.
fn reset(stream: tokio::net::TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_noticed_while_the_service_is_silent() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    with_server(&lab, &sandbox).await;
    reset(ask_slowly(&lab, &sandbox, "/hang", "/tmp/hanging", "").await);
    let seen = lab.sh(&sandbox, "timeout 20 sh -c 'until [ -e /tmp/let-go ]; do sleep 0.02; done'").await;
    assert_eq!(seen.exit, Some(0), "the connection inside is still open: {seen:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_nothing_more_to_say_gets_its_answer() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    with_server(&lab, &sandbox).await;
    let mut stream = ask_slowly(&lab, &sandbox, "/slow", "/tmp/asked", "Connection: close\r\n").await;
    stream.shutdown().await.unwrap();
    lab.sh(&sandbox, "touch /tmp/go").await.ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"), "{answer}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sees_the_host_name_that_was_asked_for() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"network": {"maskRequestHost": "app.internal:${PORT}"}})).await;
    with_server(&lab, &sandbox).await;
    let head = lab.send(send(by_host(&sandbox, "/"))).await.text().to_ascii_lowercase();
    assert!(head.contains("host: app.internal:3000\r\n"), "{head}");
    assert!(
        head.contains(&format!("x-forwarded-host: 3000-{}.localhost:8788", sandbox.sandbox_id)),
        "{head}"
    );
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_ports_open_to_tokens_and_links_only() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"network": {"allowPublicTraffic": false}})).await;
    let token = sandbox.traffic_access_token.clone().unwrap();
    with_server(&lab, &sandbox).await;
    let refused = lab.send(send(by_host(&sandbox, "/"))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let request = by_host(&sandbox, "/").header("e2b-traffic-access-token", token.expose());
    let granted = lab.send(send(request)).await;
    assert_eq!(granted.status, StatusCode::OK);
    assert!(!granted.text().contains(token.expose()));

    let expires = jiff::Timestamp::now().as_second() + 60;
    let period = |expires_at| link::Period {
        issued_at_ms: jiff::Timestamp::now().as_millisecond().unsigned_abs(),
        expires_at,
    };
    let link = link::sign(token.expose(), &sandbox.sandbox_id, 3000, period(expires));
    let visited = lab.send(send(by_host(&sandbox, &format!("/page?x=1&pvm_token={link}")))).await;
    assert!(visited.text().starts_with("GET /page?x=1 HTTP/1.1"), "{}", visited.text());
    let cookie = visited.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let next = lab.send(send(by_host(&sandbox, "/style.css").header("cookie", cookie))).await;
    assert_eq!(next.status, StatusCode::OK);
    let expired = link::sign(token.expose(), &sandbox.sandbox_id, 3000, period(expires - 120));
    let late = lab.send(send(by_host(&sandbox, &format!("/?pvm_token={expired}")))).await;
    assert_eq!(late.status, StatusCode::FORBIDDEN);

    // A revocation voids the links, and cookies made of them, of its port; new links work.
    let revoke = async |port: &str| {
        let path = format!("/sandboxes/{}/ports/{port}/revoke-links", sandbox.sandbox_id);
        lab.call("POST", &path, json!({})).await
    };
    assert_eq!(revoke("x").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(revoke("3001").await.status, StatusCode::NO_CONTENT);
    let visit =
        async |link: &str| lab.send(send(by_host(&sandbox, &format!("/?pvm_token={link}")))).await.status;
    assert_eq!(visit(&link).await, StatusCode::OK);
    assert_eq!(revoke("3000").await.status, StatusCode::NO_CONTENT);
    assert_eq!(visit(&link).await, StatusCode::FORBIDDEN);
    let by_cookie = by_host(&sandbox, "/").header("cookie", format!("pvm_token={link}"));
    assert_eq!(lab.send(send(by_cookie)).await.status, StatusCode::FORBIDDEN);
    let fresh = link::sign(token.expose(), &sandbox.sandbox_id, 3000, period(expires));
    assert_eq!(visit(&fresh).await, StatusCode::OK);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_file_url_finds_its_sandbox() {
    let lab = Lab::start().await;
    let (_other, sandbox) = (lab.create().await, lab.create().await);
    lab.sh(&sandbox, "echo -n contents > /tmp/file").await.ok();
    let token = sandbox.envd_access_token.as_ref().unwrap().expose();
    let signature = pvm_e2b_wire::signature::sign(
        "/tmp/file",
        pvm_e2b_wire::signature::Operation::Read,
        "user",
        token,
        None,
    );
    let query = percent_encoding::utf8_percent_encode(&signature, percent_encoding::NON_ALPHANUMERIC);
    let get = |signature: &str| {
        let uri = format!("/files?path=/tmp/file&username=user&signature={signature}");
        Request::builder().uri(uri).header("host", "127.0.0.1").body(Full::default()).unwrap()
    };
    assert_eq!(lab.send(get(&query.to_string())).await.text(), "contents");
    let wrong = lab.send(get("v1_wrong")).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(wrong.json(), json!({"code": 401, "message": "invalid signature"}));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_own_endpoints_are_closed_to_the_outside() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    for (path, status) in [
        ("/init", 403),
        ("/pvm.Control/Dial?port=22", 403),
        ("/pvm.Control/Shutdown", 403),
        ("/pvm.Control/Timeout", 403),
        ("//init", 404),
        ("/freeze", 403),
        ("/unfreeze", 403),
        ("/collapse", 403),
        ("/fsfreeze", 403),
        ("/fsthaw", 403),
    ] {
        let answer = lab.envd(&sandbox, Method::POST, path, "{}").await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
    }
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_serves_https_is_reached_over_tls() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"network": {"httpsPorts": [8443]}})).await;
    let server = r"
import http.server, ssl, subprocess
subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', '/tmp/k', '-out', '/tmp/c', '-days', '1', '-subj', '/CN=x'], check=True, capture_output=True)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'secured')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain('/tmp/c', '/tmp/k')
server = http.server.HTTPServer(('127.0.0.1', 8443), Answer)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";
    let mut request = Lab::request(&sandbox, 49983, Method::POST, "/files?path=/tmp/server.py", server);
    request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
    assert_eq!(lab.send(request).await.status, StatusCode::OK);
    lab.spawn(&sandbox, "user", "exec /usr/bin/python3 /tmp/server.py").await;
    eventually("the server inside answers over TLS", async || {
        lab.send(Lab::request(&sandbox, 8443, Method::GET, "/", "")).await.text() == "secured"
    })
    .await;
    let bad = json!({"templateID": "host", "network": {"httpsPorts": [49983]}});
    lab.must(400, "POST", "/v2/sandboxes", bad).await;
    lab.finish().await;
}
