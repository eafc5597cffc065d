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

/// A service waits for those it depends on, and fails with one that does not get ready.
pub async fn dependencies(api: &Api) {
    let path = api.project("dependencies").await;
    let services = format!("{path}/services");
    let unknown = json!({"name": "web", "command": "true", "depends_on": ["db"]});
    api.post(&services, unknown).await.refuses("depends_on");
    // The first is ready when a file is there; the second one notes whether it was.
    let db = json!({"name": "db", "command": "until [ -e go ]; do sleep 0.05; done; echo up; sleep 1000",
        "ready": {"log_line": "up"}, "wait_secs": 0});
    assert_eq!(api.post(&services, db).await.expect(201)["status"], "starting");
    let web = json!({"name": "web", "command": "ls go > seen; python3 -m http.server $PORT", "port": 8000,
        "depends_on": ["db"], "wait_secs": 0});
    let web = api.post(&services, web).await.expect(201);
    assert_eq!(web["status"], "starting", "{web}");
    assert_eq!(api.shell(&path, "ls; touch go").await, "", "the dependent one has not begun");
    until(api, &path, "web", "running").await;
    assert_eq!(api.shell(&path, "cat seen").await, "go\n");

    let never = json!({"name": "never", "command": "echo still waiting; sleep 1000", "ready": {"log_line": "x"},
        "ready_timeout_secs": 1});
    api.post(&services, never).await.expect(201);
    let never = until(api, &path, "never", "failed").await;
    let reason = never["reason"].as_str().unwrap();
    assert!(reason.contains("within 1 s") && reason.contains("still waiting"), "{reason}");
    let on_failed = json!({"name": "late", "command": "true", "depends_on": ["never"]});
    api.post(&services, on_failed).await.problem(409, "conflict");
}

/// A port that another program has is told as that, and the other program is left alone.
pub async fn port_taken(api: &Api) {
    let path = api.project("port").await;
    let services = format!("{path}/services");
    let asked = |name: &str| json!({"name": name, "command": SERVER, "port": 8000});
    // The answer waits for some seconds only; on a machine that is busy the rest is asked for.
    api.post(&services, asked("one")).await.expect(201);
    until(api, &path, "one", "running").await;
    api.post(&services, asked("two")).await.expect(201);
    let two = until(api, &path, "two", "failed").await;
    assert!(two["reason"].as_str().unwrap().contains("port 8000 is taken"), "{two}");
    until(api, &path, "one", "running").await;
    // The name of a failed service is free for another try.
    let again = json!({"name": "two", "command": SERVER, "port": 8001});
    api.post(&services, again).await.expect(201);
    until(api, &path, "two", "running").await;
}

/// A start that did not get ready in time is ended before the next one: it may hold the port.
pub async fn retried(api: &Api) {
    let path = api.project("retried").await;
    let services = format!("{path}/services");
    let asked = |line: &str, ready: serde_json::Value| json!({"name": "web", "command": line, "port": 8000, "ready": ready, "ready_timeout_secs": 60});
    let mut never =
        asked("echo $$ > first; exec python3 -m http.server $PORT", json!({"log_line": "never said"}));
    never["ready_timeout_secs"] = json!(2);
    api.post(&services, never).await.expect(201);
    until(api, &path, "web", "failed").await;
    assert_eq!(
        api.shell(&path, "kill -0 $(cat first) && echo alive").await,
        "alive\n",
        "it can be looked into"
    );
    api.post(&services, asked("exec python3 -m http.server $PORT", json!("port"))).await.expect(201);
    until(api, &path, "web", "running").await;
    assert_ne!(
        api.run(&path, json!({"command": "kill -0 $(cat first)"})).await["exit_code"],
        0,
        "it still runs"
    );
}

/// A service that ends is started again by its policy, with a pause, and given up in the end.
pub async fn restarts(api: &Api) {
    let path = api.project("restarts").await;
    let services = format!("{path}/services");
    // It fails twice, then stays.
    let line = "echo x >> tries; [ $(wc -l < tries) -ge 3 ] && { echo steady; exec sleep 1000; }; exit 4";
    let asked = json!({"name": "flaky", "command": line, "ready": {"log_line": "steady"}});
    api.post(&services, asked).await.expect(201);
    let made = until(api, &path, "flaky", "running").await;
    assert_eq!(api.shell(&path, "wc -l < tries").await.trim(), "3");
    let id = made["service_id"].as_str().unwrap();
    let logs = api.get(&format!("{services}/{id}/logs")).await.expect(200);
    assert!(logs["stderr"].as_str().unwrap().contains("exit status 4; starting it again in 2 s"), "{logs}");
    // One that keeps ending does not say that it runs while it does not.
    let asked = json!({"name": "loop", "command": "echo up; sleep 0.2; exit 5", "ready": {"log_line": "up"}});
    api.post(&services, asked).await.expect(201);
    let between = loop {
        let list = api.get(&services).await.expect(200);
        let one = list["items"].as_array().unwrap().iter().find(|one| one["name"] == "loop").unwrap().clone();
        if one["status"] != "running" && one["reason"].is_string() {
            break one;
        }
    };
    assert!(between["reason"].as_str().unwrap().contains("exit status 5"), "{between}");
    until(api, &path, "loop", "failed").await;
    // Ended well, `on_failure` leaves it; the status comes from the VM.
    let asked = json!({"name": "short", "command": "echo done; exit 0", "restart": "on_failure"});
    api.post(&services, asked).await.expect(201);
    let ended = until(api, &path, "short", "failed").await;
    assert!(ended["reason"].as_str().unwrap().contains("exit status 0"), "{ended}");
    // TERM is enough for one that listens to it, and KILL ends one that does not.
    let line = "trap '' TERM; echo deaf; while :; do sleep 1; done";
    let asked = json!({"name": "deaf", "command": line, "ready": {"log_line": "deaf"}});
    let made = api.post(&services, asked).await.expect(201);
    until(api, &path, "deaf", "running").await;
    let id = made["service_id"].as_str().unwrap();
    api.delete(&format!("{services}/{id}")).await.expect(200);
    let left = api.run(&path, json!({"command": "pgrep -f 'trap .. TER[M]'", "user": "root"})).await;
    assert_eq!(left["stdout"], "", "{left}");
}

/// A port is private; a link opens it until it is revoked.
pub async fn links(api: &Api) {
    let path = api.project("links").await;
    let services = format!("{path}/services");
    api.shell(&path, "echo secret > index.html").await;
    let made = api.post(&services, json!({"name": "web", "command": SERVER, "port": 8000})).await.expect(201);
    until(api, &path, "web", "running").await;
    let own = made["url"].as_str().unwrap().to_owned();
    let bare = own.split('?').next().unwrap();
    assert_eq!(fetch(api, bare).await.0, 403, "without a link it is closed");
    assert_eq!(fetch(api, &bare.replace("/?", "/?pvm_token=1.2.forged")).await.0, 403);
    let links = format!("{services}/{}/links", made["service_id"].as_str().unwrap());
    api.post(&links, json!({"expires_in_secs": 1})).await.refuses("expires_in_secs");
    let link = api.post(&links, json!({"expires_in_secs": 3_600})).await.expect(201);
    let url = link["url"].as_str().unwrap();
    assert_eq!(fetch(api, url).await, (200, "secret\n".to_owned()));
    let deadline: jiff::Timestamp = link["expires_at"].as_str().unwrap().parse().unwrap();
    let left = deadline.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3_500..=3_600).contains(&left), "{link}");
    assert_eq!(api.delete(&links).await.status, 204);
    assert_eq!(fetch(api, url).await.0, 403, "it was revoked");
    assert_eq!(fetch(api, &own).await.0, 403, "and so was every other");
    let fresh = api.post(&links, json!({})).await.expect(201);
    assert_eq!(fetch(api, fresh["url"].as_str().unwrap()).await.0, 200);
    // Without a port there is nothing to link to.
    let made = api.post(&services, json!({"name": "plain", "command": "sleep 1000"})).await.expect(201);
    let links = format!("{services}/{}/links", made["service_id"].as_str().unwrap());
    api.post(&links, json!({})).await.problem(409, "conflict");
}

/// A WebSocket server of Python's own library: it sends back what it gets, and says which path it was asked for.
const WEB_SOCKET: &str = r#"
import base64, hashlib, http.server, os, struct
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() != "websocket":
            self.send_response(200); self.send_header("Content-Length", "5"); self.end_headers(); self.wfile.write(b"plain"); return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()); self.end_headers()
        self.frame(1, self.path.encode())
        while True:
            head = self.rfile.read(2)
            kind, size = head[0] & 15, head[1] & 127
            if size == 126: size = struct.unpack(">H", self.rfile.read(2))[0]
            elif size == 127: size = struct.unpack(">Q", self.rfile.read(8))[0]
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            self.frame(kind, data)
            if kind == 8: self.close_connection = True; return
    def frame(self, kind, data):
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data)) if len(data) < 65536 else b"\x7f" + struct.pack(">Q", len(data))
        self.wfile.write(bytes([128 | kind]) + size + data); self.wfile.flush()
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// WebSockets pass through a service's URL and through a link, both ways, of any size; without a link they do not.
pub async fn web_socket(api: &Api) {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::{Error, Message};
    let path = api.project("web socket").await;
    let services = format!("{path}/services");
    let written = api.run(&path, json!({"command": "cat > ws.py", "stdin": WEB_SOCKET})).await;
    assert_eq!(written["exit_code"], 0, "{written}");
    let asked = json!({"name": "ws", "command": "python3 ws.py", "port": 8000, "ready": {"http_path": "/"}});
    api.post(&services, asked).await.expect(201);
    let made = until(api, &path, "ws", "running").await;
    let own = made["url"].as_str().unwrap().to_owned();
    let links = format!("{services}/{}/links", made["service_id"].as_str().unwrap());
    let link = api.post(&links, json!({})).await.expect(201)["url"].as_str().unwrap().to_owned();
    for url in [own, link] {
        let mut socket = open_socket(&url, "/chat").await.unwrap();
        // What the service sends first comes without being asked for. It sees its own path and no token.
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("/chat"));
        for size in [5, 1_000, 100_000] {
            let sent = Message::binary(vec![b'x'; size]);
            socket.send(sent.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), sent);
        }
        socket.send(Message::text("h\u{e9}llo")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("h\u{e9}llo"));
        socket.close(None).await.unwrap();
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
        let bare = url.split('?').next().unwrap();
        match open_socket(bare, "/chat").await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 403),
            other => panic!("{other:?}"),
        }
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

/// Opens a WebSocket at `path` of a service's URL. `*.localhost` is this machine, whatever the resolver thinks.
async fn open_socket(url: &str, path: &str) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
    let mut url = url::Url::parse(url).unwrap();
    url.set_path(path);
    let port = url.port_or_known_default().unwrap();
    let host = url.host_str().unwrap().to_owned();
    let stream = if host.ends_with(".localhost") {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap()
    } else {
        tokio::net::TcpStream::connect((host, port)).await.unwrap()
    };
    let request = url.as_str().replacen("http", "ws", 1);
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

/// A service's URL is told while its VM is there to answer; while it is paused there is none, and a link brings it back.
pub async fn paused(api: &Api) {
    let path = api.project("paused").await;
    let services = format!("{path}/services");
    api.shell(&path, "echo here > index.html").await;
    let made = api.post(&services, json!({"name": "web", "command": SERVER, "port": 8000})).await.expect(201);
    let running = until(api, &path, "web", "running").await;
    assert!(running["url"].as_str().unwrap().contains("pvm_token="), "{running}");
    api.post(&format!("{path}/vm/pause"), json!({})).await;
    while api.get(&format!("{path}/status")).await.expect(200)["vm_status"] != "paused" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let listed = api.get(&services).await.expect(200);
    assert_eq!((&listed["items"][0]["name"], &listed["items"][0]["url"]), (&json!("web"), &json!(null)));
    let status = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!(status["services"][0]["url"], json!(null), "{status}");
    let links = format!("{services}/{}/links", made["service_id"].as_str().unwrap());
    let link = api.post(&links, json!({})).await.expect(201);
    until(api, &path, "web", "running").await;
    assert_eq!(fetch(api, link["url"].as_str().unwrap()).await, (200, "here\n".to_owned()));
}

/// Waits until the service `name` has this status.
pub async fn until(api: &Api, path: &str, name: &str, status: &str) -> serde_json::Value {
    loop {
        let list = api.get(&format!("{path}/services")).await.expect(200);
        let one = list["items"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        if one["status"] == status {
            return one.clone();
        }
        assert!(one["status"] == "starting" || one["status"] == "running", "{one}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
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
