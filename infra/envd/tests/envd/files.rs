use std::io::{Read as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hyper::{Method, StatusCode};
use pvm_e2b_wire::signature::{Operation, sign};
use serde_json::json;

use crate::harness::{Answer, Envd};

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

fn uri(path: &str) -> String {
    format!("/files?path={}", percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC))
}

async fn put(envd: &Envd, path: &str, data: impl Into<bytes::Bytes>) -> Answer {
    envd.http(Method::POST, &uri(path), &[OCTETS], data).await
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn files_of_any_size_come_back_as_they_went() {
    let envd = Envd::start();
    for size in [0, 1, 511 * 1024, 512 * 1024, 512 * 1024 + 1, 5_000_000] {
        let data: Vec<u8> = (0..size).map(|index| (index * 31 % 251) as u8).collect();
        let path = envd.path("deep/er/f\u{fc} ile");
        let answer = put(&envd, &path, data.clone()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.json(), json!([{"path": path, "name": "f\u{fc} ile", "type": "file"}]));
        let answer = envd.get(&uri(&path)).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, size));
        assert_eq!(answer.body, data);
        assert_eq!(answer.header("content-length"), size.to_string());
    }
}

#[tokio::test]
async fn forms_name_their_files_in_the_query_or_in_the_parts() {
    let envd = Envd::start();
    let headers = [("content-type", "multipart/form-data; boundary=XX")];
    let part = |name: &str, text: &str| {
        format!(
            "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{text}\r\n"
        )
    };
    let (a, b) = (envd.path("a"), envd.path("sub/b"));
    let other = "--XX\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nignored\r\n";
    let form = format!("{}{other}{}--XX--\r\n", part(&a, "one"), part(&b, "two"));
    let answer = envd.http(Method::POST, "/files", &headers, form).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    assert_eq!(answer.json()[1]["path"], b);
    assert_eq!(std::fs::read_to_string(&b).unwrap(), "two");

    let c = envd.path("c");
    let form = format!("{}--XX--\r\n", part("whatever", "three"));
    envd.http(Method::POST, &uri(&c), &headers, form).await;
    assert_eq!(std::fs::read_to_string(&c).unwrap(), "three");

    let twice = format!("{}{}--XX--\r\n", part(&a, "1"), part(&a, "2"));
    let answer = envd.http(Method::POST, "/files", &headers, twice).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "1");

    let cut = part(&a, "cut");
    let answer = envd.http(Method::POST, "/files", &headers, cut).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn gzip_is_undone_on_the_way_in_and_done_on_request_on_the_way_out() {
    let envd = Envd::start();
    let path = envd.path("f");
    let data = b"hello ".repeat(300_000);
    let headers = [OCTETS, ("content-encoding", "gzip")];
    let answer = envd.http(Method::POST, &uri(&path), &headers, gzip(&data)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(std::fs::read(&path).unwrap(), data);
    let answer = envd.http(Method::GET, &uri(&path), &[("accept-encoding", "gzip, deflate")], "").await;
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), ("gzip", "Accept-Encoding"));
    let mut plain = Vec::new();
    GzDecoder::new(answer.body.as_ref()).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, data);
    let answer = envd.http(Method::GET, &uri(&path), &[("accept-encoding", "identity;q=0")], "").await;
    assert_eq!(answer.status, StatusCode::NOT_ACCEPTABLE);
    let answer = envd.http(Method::POST, &uri(&path), &headers, "not gzip").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn several_ranges_come_in_parts() {
    let envd = Envd::start();
    let path = envd.path("page.html");
    let data: Vec<u8> = (0..1_500_000_u32).map(|index| (index % 251) as u8).collect();
    put(&envd, &path, data.clone()).await;
    let ranges = "bytes=5-9, 700000-1299999,-3";
    let answer = envd.http(Method::GET, &uri(&path), &[("range", ranges)], "").await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let kind = answer.header("content-type").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (number, (from, to)) in [(5, 9), (700_000, 1_299_999), (1_499_997, 1_499_999)].into_iter().enumerate()
    {
        let line = if number == 0 { "" } else { "\r\n" };
        let head = format!(
            "{line}--{boundary}\r\nContent-Range: bytes {from}-{to}/1500000\r\nContent-Type: text/html\r\n\r\n"
        );
        expected.extend(head.bytes());
        expected.extend(&data[from..=to]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").bytes());
    assert!(answer.body == expected, "{}", String::from_utf8_lossy(&answer.body[..200]));

    let empty = envd.path("empty");
    put(&envd, &empty, "").await;
    let answer = envd.http(Method::GET, &uri(&empty), &[("range", "bytes=0-")], "").await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    let answer = envd.http(Method::GET, &uri(&path), &[("range", "bytes=3-2")], "").await;
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let answer = envd.http(Method::GET, &uri(&path), &[("if-none-match", "*")], "").await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test]
async fn ranges_and_conditions_are_honoured() {
    let envd = Envd::start();
    let path = envd.path("f");
    let data: Vec<u8> = (0..2_000_000_u32).map(|index| (index % 251) as u8).collect();
    put(&envd, &path, data.clone()).await;
    for (range, from, to) in [
        ("bytes=5-9", 5, 9),
        ("bytes=600000-1999998", 600_000, 1_999_998),
        ("bytes=-3", 1_999_997, 1_999_999),
    ] {
        let answer =
            envd.http(Method::GET, &uri(&path), &[("range", range), ("accept-encoding", "gzip")], "").await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.header("content-range"), format!("bytes {from}-{to}/2000000"));
        assert_eq!(answer.body, data[from..=to]);
    }
    let answer = envd.http(Method::GET, &uri(&path), &[("range", "bytes=2000000-")], "").await;
    assert_eq!(
        (answer.status, answer.header("content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */2000000")
    );
    let whole = envd.get(&uri(&path)).await;
    let modified = whole.header("last-modified").to_owned();
    let answer = envd.http(Method::GET, &uri(&path), &[("if-modified-since", &modified)], "").await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_told() {
    let envd = Envd::start();
    let missing = envd.path("missing");
    let answer = envd.get(&uri(&missing)).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json(), json!({"code": 404, "message": format!("path '{missing}' does not exist")}));
    let folder = envd.folder.to_string_lossy().into_owned();
    assert_eq!(envd.get(&uri(&folder)).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(put(&envd, &folder, "x").await.status, StatusCode::BAD_REQUEST);
    let pipe = envd.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(envd.get(&uri(&pipe)).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(put(&envd, &pipe, "x").await.status, StatusCode::BAD_REQUEST);
    let file = envd.path("file");
    put(&envd, &file, "x").await;
    assert_eq!(put(&envd, &format!("{file}/below"), "x").await.status, StatusCode::BAD_REQUEST);
    let answer = envd.http(Method::POST, "/files", &[OCTETS], "x").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = envd.http(Method::POST, &uri(&file), &[("content-type", "text/plain")], "x").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = envd.get(&format!("{}&username=no-such-user", uri(&file))).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(envd.http(Method::PUT, &uri(&file), &[], "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn files_of_the_kernel_have_content_in_spite_of_their_size() {
    let envd = Envd::start();
    let answer = envd.get(&uri("/proc/sys/kernel/ostype")).await;
    assert_eq!(answer.body.as_ref(), b"Linux\n");
}

#[tokio::test]
async fn metadata_is_kept_told_and_replaced() {
    let envd = Envd::start();
    let path = envd.path("f");
    let headers = [OCTETS, ("X-Metadata-Author", "me"), ("x-metadata-kind", "test")];
    let answer = envd.http(Method::POST, &uri(&path), &headers, "x").await;
    assert_eq!(answer.json()[0]["metadata"], json!({"author": "me", "kind": "test"}), "{}", answer.json());
    let stat = envd.call("/filesystem.Filesystem/Stat", json!({"path": path})).await;
    assert_eq!(stat["entry"]["metadata"], json!({"author": "me", "kind": "test"}));
    envd.http(Method::POST, &uri(&path), &[OCTETS, ("x-metadata-new", "1")], "x").await;
    let stat = envd.call("/filesystem.Filesystem/Stat", json!({"path": path})).await;
    assert_eq!(stat["entry"]["metadata"], json!({"new": "1"}));
    let answer =
        envd.http(Method::POST, &uri(&path), &[OCTETS, ("x-metadata-a", &"x".repeat(5000))], "x").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn composing_joins_files_and_removes_the_parts() {
    let envd = Envd::start();
    let (a, b, joined) = (envd.path("a"), envd.path("b"), envd.path("sub/joined"));
    put(&envd, &a, "one ").await;
    put(&envd, &b, "two").await;
    let body = json!({"source_paths": [a, b], "destination": joined}).to_string();
    let answer = envd.http(Method::POST, "/files/compose", &[], body.clone()).await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({"path": joined, "name": "joined", "type": "file"}))
    );
    assert_eq!(std::fs::read_to_string(&joined).unwrap(), "one two");
    assert!(!std::path::Path::new(&a).exists());
    let answer = envd.http(Method::POST, "/files/compose", &[], body).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(std::fs::read_to_string(&joined).unwrap(), "one two");
    for wrong in [
        json!({"source_paths": [], "destination": "x"}),
        json!({"source_paths": [joined], "destination": joined}),
    ] {
        let answer = envd.http(Method::POST, "/files/compose", &[], wrong.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_token_guards_everything_and_signatures_open_single_files() {
    let envd = Envd::start();
    let path = envd.path("f");
    put(&envd, &path, "secret").await;
    let init = |token: &str| json!({"accessToken": token}).to_string();
    assert_eq!(envd.http(Method::POST, "/init", &[], init("tok")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(envd.http(Method::POST, "/init", &[], init("tok")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(envd.http(Method::POST, "/init", &[], init("other")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(envd.get("/health").await.status, StatusCode::NO_CONTENT);

    let answer = envd.get("/envs").await;
    assert_eq!((answer.status, answer.json()["code"].as_u64()), (StatusCode::UNAUTHORIZED, Some(401)));
    assert!(answer.json()["message"].as_str().unwrap().starts_with("unauthorized access, "));
    let token = ("x-access-token", "tok");
    assert_eq!(envd.http(Method::GET, "/envs", &[token], "").await.status, StatusCode::OK);
    assert_eq!(envd.http(Method::GET, &uri(&path), &[token], "").await.body.as_ref(), b"secret");
    let answer = envd.http(Method::GET, &uri(&path), &[("x-access-token", "wrong")], "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let answer = envd.get(&uri(&path)).await;
    assert_eq!(answer.json(), json!({"code": 401, "message": "missing signature query parameter"}));

    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let signed = encode(&sign(&path, Operation::Read, "", "tok", None));
    let link = format!("{}&signature={signed}", uri(&path));
    assert_eq!(envd.get(&link).await.body.as_ref(), b"secret");
    let answer = envd.http(Method::POST, &link, &[OCTETS], "overwritten").await;
    assert_eq!(answer.json()["message"], "invalid signature");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    for (expires, status) in [(now + 1000, StatusCode::OK), (now - 1000, StatusCode::UNAUTHORIZED)] {
        let signed = encode(&sign(&path, Operation::Read, "root", "tok", Some(expires)));
        let link = format!("{}&username=root&signature={signed}&signature_expiration={expires}", uri(&path));
        let answer = envd.get(&link).await;
        assert_eq!(answer.status, status);
        if status == StatusCode::UNAUTHORIZED {
            assert_eq!(answer.body, r#"{"code":401,"message":"signature is already expired"}"#);
        }
    }
}

#[tokio::test]
async fn browsers_are_let_in() {
    let envd = Envd::start();
    let headers = [
        ("origin", "https://example.org"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-access-token"),
    ];
    let answer = envd.http(Method::OPTIONS, "/process.Process/Start", &headers, "").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-headers"), "x-access-token");
    let answer = envd.http(Method::GET, "/health", &[("origin", "https://example.org")], "").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("x-pvm-journal"), "1");
}

#[tokio::test]
async fn metrics_are_told() {
    let envd = Envd::start();
    let metrics = envd.get("/metrics").await.json();
    assert!(metrics["cpu_count"].as_u64().unwrap() > 0);
    assert!(metrics["mem_total"].as_u64().unwrap() > metrics["mem_used"].as_u64().unwrap());
    assert!(metrics["disk_total"].as_u64().unwrap() > 0);
    assert!(metrics["ts"].as_i64().unwrap() > 1_600_000_000);
}
