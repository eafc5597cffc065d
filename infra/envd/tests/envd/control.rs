use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Answer, Envd, eventually, request};

#[tokio::test]
async fn control_endpoints_are_not_reachable_from_outside() {
    let envd = Envd::start();
    for path in
        ["/pvm.Control/Status", "/pvm.Control/Dial?port=80", "/pvm.Control/Shutdown", "/pvm.Control/Nope"]
    {
        assert_eq!(envd.http(Method::POST, path, &[], "").await.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn the_control_socket_needs_no_token_and_tells_the_state() {
    let envd = Envd::start();
    let init = json!({"accessToken": "one"}).to_string();
    envd.send_control(request(Method::POST, "/init", &[], init)).await;
    assert_eq!(envd.get("/envs").await.status, StatusCode::UNAUTHORIZED);
    // The server hands the tokens out, so it may change them.
    let init = json!({"accessToken": "two", "envVars": {"A": "b"}}).to_string();
    let answer = envd.send_control(request(Method::POST, "/init", &[], init)).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let answer = envd.http(Method::GET, "/envs", &[("x-access-token", "two")], "").await;
    assert_eq!(answer.json(), json!({"A": "b"}));
    let answer =
        Answer::read(envd.send_control(request(Method::GET, "/pvm.Control/Status", &[], "")).await).await;
    let status = answer.json();
    assert_eq!((status["processes"].as_u64(), status["runs"].as_u64()), (Some(0), Some(0)));
    assert!(status["bootId"].as_str().is_some_and(|id| !id.is_empty()));
}

#[tokio::test]
async fn a_port_inside_is_dialled() {
    let envd = Envd::start();
    let upgrade = [("connection", "Upgrade"), ("upgrade", "tcp")];
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (uri, body) = if address.starts_with('[') {
            ("/pvm.Control/Dial".to_owned(), json!({"port": port}).to_string())
        } else {
            (format!("/pvm.Control/Dial?port={port}"), String::new())
        };
        let response = envd.send_control(request(Method::POST, &uri, &upgrade, body)).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut outside = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let (mut inside, _) = listener.accept().await.unwrap();
        outside.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        inside.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        inside.write_all(b"pong").await.unwrap();
        drop(inside);
        let mut answer = String::new();
        outside.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "pong");
    }
}

#[tokio::test]
async fn a_closed_port_and_wrong_dials_are_told() {
    let envd = Envd::start();
    let upgrade = [("connection", "Upgrade"), ("upgrade", "tcp")];
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (uri, headers, status) in [
        (format!("/pvm.Control/Dial?port={free}"), &upgrade[..], StatusCode::BAD_GATEWAY),
        ("/pvm.Control/Dial?port=0".to_owned(), &upgrade[..], StatusCode::BAD_REQUEST),
        ("/pvm.Control/Dial?port=x".to_owned(), &upgrade[..], StatusCode::BAD_REQUEST),
        (format!("/pvm.Control/Dial?port={free}"), &[], StatusCode::UPGRADE_REQUIRED),
    ] {
        let answer = envd.send_control(request(Method::POST, &uri, headers, "")).await;
        assert_eq!(answer.status(), status, "{uri}");
    }
}

#[tokio::test]
async fn shutting_down_ends_the_processes_and_the_daemon() {
    let mut envd = Envd::start();
    let mark = envd.path("mark");
    let script = format!("trap 'echo ended > {mark}; exit' TERM; echo ready; while :; do sleep 0.01; done");
    let (mut messages, _) = envd.shell(&script).await;
    messages.until("ready").await;
    let body = json!({"graceMs": 10_000}).to_string();
    let answer = envd.send_control(request(Method::POST, "/pvm.Control/Shutdown", &[], body)).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "ended\n");
    eventually("the daemon exits", || envd.has_ended()).await;
}
