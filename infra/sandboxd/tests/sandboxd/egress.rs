//! The way out: rules, their change while a sandbox runs, and secrets that stay outside.

use serde_json::{Value, json};

use crate::lab::{Lab, echo_server};

/// The status with which a request through the proxy is answered.
fn fetch(url: &str) -> String {
    format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' -x http://127.0.0.1:3128 --noproxy '' {url}")
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_what_is_reached_and_change_at_once() {
    let lab = Lab::with(Lab::open_loopback).await;
    let server = echo_server().await;
    let sandbox = lab.create().await;
    let url = format!("http://{server}/");
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "200");

    let network = format!("/sandboxes/{}/network", sandbox.sandbox_id);
    lab.must(204, "PUT", &network, json!({"denyOut": ["127.0.0.0/8"]})).await;
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "403");
    lab.must(204, "PUT", &network, json!({"denyOut": ["0.0.0.0/0"], "allowOut": ["127.0.0.1"]})).await;
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "200");
    lab.must(204, "PUT", &network, json!({"denyOut": ["0.0.0.0/0"], "allowOut": ["elsewhere.example"]}))
        .await;
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "403");
    // By name, the address behind it does not matter to the sandbox's own rules.
    lab.must(204, "PUT", &network, json!({"denyOut": ["0.0.0.0/0"], "allowOut": ["localhost"]})).await;
    let named = format!("http://localhost:{}/", server.port());
    assert_eq!(lab.sh(&sandbox, &fetch(&named)).await.stdout, "200");
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "403");
    // What is left out is cleared.
    lab.must(204, "PUT", &network, json!({})).await;
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "200");
    lab.must(204, "PUT", &network, json!({"allow_internet_access": false})).await;
    assert_eq!(lab.sh(&sandbox, &fetch(&url)).await.stdout, "403");
    lab.must(400, "PUT", &network, json!({"allowOut": ["a.example"]})).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_tunnel_ends_when_the_rules_forbid_it() {
    let lab = Lab::with(Lab::open_loopback).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = lab.create().await;
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; \
         read -r line <&3; echo \"$line\"; cat <&3 >/dev/null; echo ended"
    );
    let response = lab.start_process(&sandbox, "user", &script).await;
    let (_stream, _) = listener.accept().await.unwrap();
    let network = format!("/sandboxes/{}/network", sandbox.sandbox_id);
    lab.must(204, "PUT", &network, json!({"denyOut": ["0.0.0.0/0"]})).await;
    let output = lab.events(response).await;
    assert!(output.stdout.ends_with("ended\n"), "{output:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_added_outside_and_never_seen_inside() {
    let lab = Lab::with(Lab::open_loopback).await;
    let server = echo_server().await;
    let rules = json!({"localhost": [{"transform": {"headers": {"authorization": "Bearer s3cret-value"}}}]});
    let sandbox = lab.create_with(json!({"network": {"rules": rules}})).await;
    let url = format!("http://localhost:{}/", server.port());
    let script = format!("curl -s -x http://127.0.0.1:3128 --noproxy '' -H 'Authorization: mine' {url}");
    let seen = lab.sh(&sandbox, &script).await;
    assert!(seen.stdout.contains("authorization: Bearer s3cret-value"), "{seen:?}");
    assert!(!seen.stdout.contains("mine"));
    let other = format!("http://127.0.0.1:{}/", server.port());
    let script = format!("curl -s -x http://127.0.0.1:3128 --noproxy '' {other}");
    assert!(!lab.sh(&sandbox, &script).await.stdout.contains("s3cret"));
    let search = "grep -rl s3cret /etc /run /tmp /home /proc/*/environ 2>/dev/null | wc -l";
    assert_eq!(lab.sh_as(&sandbox, "root", search).await.stdout, "0\n");
    // Nor does an answer have it.
    let detail = lab.must(200, "GET", &format!("/sandboxes/{}", sandbox.sandbox_id), Value::Null).await;
    assert!(!detail.text().contains("s3cret"), "{}", detail.text());
    let shown = &detail.json()["network"]["rules"]["localhost"][0]["transform"]["headers"];
    assert_eq!(*shown, json!({"authorization": "***"}));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_inside_are_bounded_too() {
    let lab = Lab::with(|config| config.egress.connections = 4).await;
    let sandbox = lab.create().await;
    let flood = r"
import socket, time
held = []
for _ in range(400):
    connection = socket.socket()
    connection.connect(('127.0.0.1', 3128))
    held.append(connection)
open('/tmp/held', 'w').close()
time.sleep(600)
";
    lab.write(&sandbox, "/tmp/flood.py", flood).await;
    let pid = lab.spawn(&sandbox, "user", "exec /usr/bin/python3 /tmp/flood.py").await;
    lab.sh(&sandbox, "until [ -e /tmp/held ]; do sleep 0.05; done").await.ok();
    // The server's ends are listed where they were asked for, which is inside. Those that were accepted have an inode,
    // those that wait in line have none yet.
    let count = "awk '/egress.sock$/ && $7 > 0' /proc/net/unix | wc -l";
    let served: u32 = lab.sh(&sandbox, count).await.ok().parse().unwrap();
    // Those that may lead outside, and a few more that get an answer.
    assert!((1..=68).contains(&served), "{served} of 400 are served");
    lab.sh(&sandbox, &format!("kill {pid}")).await.ok();
    // Places come back.
    let script = "curl -s -o /dev/null -w '%{http_code}' -m 30 http://169.254.169.254/";
    assert_eq!(lab.sh(&sandbox, script).await.stdout, "403");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_hosts_with_a_rule_are_intercepted_and_only_this_sandbox_trusts_that() {
    let lab = Lab::with(Lab::open_loopback).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = lab.create().await;
    let network = format!("/sandboxes/{}/network", sandbox.sandbox_id);
    let rules =
        json!({"rules": {"localhost": [{"transform": {"headers": {"x-key": "v"}}}]}, "httpsPorts": [port]});
    lab.must(204, "PUT", &network, rules).await;
    // The certificate comes from the sandbox's own authority, which its bundle holds; what is behind is not TLS,
    // so the proxy itself answers.
    let script = format!(
        "curl -sv -m 10 -x http://127.0.0.1:3128 --noproxy '' https://localhost:{port}/ 2>&1 | grep -E 'issuer|HTTP/1.1 502|verify'; \
         grep -c BEGIN /etc/ssl/certs/ca-certificates.crt"
    );
    let accepting = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"not TLS at all, sorry\r\n").await.ok();
        }
    };
    let seen = tokio::select! {
        seen = lab.sh(&sandbox, &script) => seen,
        () = accepting => unreachable!(),
    };
    assert!(seen.stdout.contains(&format!("pvm egress of sandbox {}", sandbox.sandbox_id)), "{seen:?}");
    assert!(seen.stdout.contains("HTTP/1.1 502"), "{seen:?}");
    let other = lab.create().await;
    let trusted = "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt";
    let count = |text: &str| text.trim().lines().last().unwrap().parse::<u32>().unwrap();
    assert_eq!(count(&seen.stdout), count(&lab.sh(&other, trusted).await.stdout) + 1);
    let detail =
        lab.must(200, "GET", &format!("/sandboxes/{}", sandbox.sandbox_id), Value::Null).await.json();
    assert_eq!(detail["network"]["httpsPorts"], json!([port]));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_has_only_so_many_connections() {
    let lab = Lab::with(|config| {
        Lab::open_loopback(config);
        config.egress.connections = 3;
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = lab.create().await;
    let script = format!(
        "for i in 3 4 5 6; do eval \"exec $i<>/dev/tcp/127.0.0.1/3128\"; printf 'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&$i; \
         read -r version status rest <&$i; echo $status; done"
    );
    let seen = lab.sh(&sandbox, &script).await;
    assert_eq!(seen.stdout, "200\n200\n200\n503\n");
    lab.finish().await;
}

/// A SOCKS5 proxy that knows one name, whose connections lead to `server`; it notes what was asked for.
async fn socks_proxy(
    server: std::net::SocketAddr,
) -> (std::net::SocketAddr, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let noted = std::sync::Arc::clone(&noted);
            tokio::spawn(async move {
                let mut greeting = [0; 3];
                stream.read_exact(&mut greeting).await?;
                stream.write_all(&[5, greeting[2]]).await?;
                let mut head = [0; 5];
                stream.read_exact(&mut head).await?;
                let mut name = vec![0; usize::from(head[4]) + 2];
                stream.read_exact(&mut name).await?;
                name.truncate(usize::from(head[4]));
                noted.lock().unwrap().push(String::from_utf8_lossy(&name).into_owned());
                let mut outside = tokio::net::TcpStream::connect(server).await?;
                stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut outside).await
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_does_not_leave_the_machine_in_clear_text() {
    let lab = Lab::with(Lab::open_loopback).await;
    let server = echo_server().await;
    let (proxy, _) = socks_proxy(server).await;
    // By way of the proxy the name is a host somewhere else: who listens on the way would read along.
    let rules =
        json!({"private.example": [{"transform": {"headers": {"authorization": "Bearer s3cret-value"}}}]});
    let network = json!({"egressProxy": {"address": proxy.to_string()}, "rules": rules});
    let sandbox = lab.create_with(json!({"network": network})).await;
    let seen = lab.sh(&sandbox, "curl -s -H 'x-mine: sent' http://private.example/path").await;
    assert!(seen.stdout.starts_with("GET /path") && seen.stdout.contains("x-mine: sent"), "{seen:?}");
    assert!(!seen.stdout.contains("s3cret"), "{seen:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_through_the_proxy_that_the_rules_name() {
    let lab = Lab::with(Lab::open_loopback).await;
    let server = echo_server().await;
    let (proxy, asked) = socks_proxy(server).await;
    let network = json!({"egressProxy": {"address": proxy.to_string()}});
    let sandbox = lab.create_with(json!({"network": network})).await;
    let seen = lab.sh(&sandbox, "curl -s http://no-such-name.example/path").await;
    assert!(seen.stdout.starts_with("GET /path"), "{seen:?}");
    assert_eq!(*asked.lock().unwrap(), ["no-such-name.example"]);
    lab.finish().await;

    // Its own address is judged like any other.
    let strict = Lab::start().await;
    let sandbox = strict.create_with(json!({"network": network})).await;
    let seen =
        strict.sh(&sandbox, "curl -s -o /dev/null -w '%{http_code}' http://no-such-name.example/").await;
    assert_eq!(seen.stdout, "403");
    let bad = json!({"templateID": "host", "network": {"egressProxy": {"address": "nowhere"}}});
    strict.must(400, "POST", "/v2/sandboxes", bad).await;
    strict.finish().await;
}
