//! Notifications of uploads, and what a crash leaves behind.

use bytes::Bytes;
use pvm_application::ports::{GetObject as _, ObjectError, PutObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::objects::{MIB, S3, bytes, s3, s3_in};

async fn next(s3: &mut S3) -> pvm_embedded::s3::S3Event {
    let within = std::time::Duration::from_secs(30);
    tokio::time::timeout(within, s3.events.recv()).await.expect("no notification came").unwrap()
}

#[tokio::test]
async fn an_upload_is_told_of_as_s3_does() {
    let mut s3 = s3().await;
    s3.objects.put("q/not-told", Bytes::new(), None).await.unwrap();
    s3.objects.put("p/a b+ü", Bytes::from_static(b"hello"), None).await.unwrap();
    let event = next(&mut s3).await;
    let record = &event.body()["Records"][0];
    assert_eq!(record["eventSource"], "aws:s3");
    assert_eq!(record["eventName"], "ObjectCreated:Put");
    assert_eq!(record["awsRegion"], "eu-west-1");
    assert!(record["eventTime"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!(record["s3"]["bucket"]["name"], "files");
    assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::files");
    let object = &record["s3"]["object"];
    assert_eq!(object["key"], "p/a+b%2B%C3%BC");
    assert_eq!(object["size"], 5);
    assert_eq!(object["eTag"], "5d41402abc4b2a76b9719d911017c592");
    let first = object["sequencer"].as_str().unwrap().to_owned();
    // The next one sorts behind it.
    s3.objects.put("p/a b+ü", Bytes::from_static(b"again"), None).await.unwrap();
    let second = next(&mut s3).await;
    assert!(second.body()["Records"][0]["s3"]["object"]["sequencer"].as_str().unwrap() > first.as_str());
}

#[tokio::test]
async fn uploads_in_parts_and_copies_are_told_of() {
    let mut s3 = s3().await;
    let given = bytes(9 * MIB);
    let stream = futures::stream::iter([Ok(given)]);
    s3.objects.put_stream("p/parts", Box::pin(stream)).await.unwrap();
    let event = next(&mut s3).await;
    assert_eq!(event.body()["Records"][0]["eventName"], "ObjectCreated:CompleteMultipartUpload");
    assert_eq!(event.body()["Records"][0]["s3"]["object"]["size"], 9 * MIB);
    let copy = s3.client.copy_object().bucket("files").key("p/copy").copy_source("files/p/parts");
    copy.send().await.unwrap();
    assert_eq!(next(&mut s3).await.body()["Records"][0]["eventName"], "ObjectCreated:Copy");
    assert_eq!(s3.objects.head("p/copy").await.unwrap().size, 9 * MIB as u64);
}

#[tokio::test]
async fn a_notification_comes_again_after_a_restart_until_it_is_done() {
    let mut s3 = s3().await;
    for key in ["p/done", "p/open", "p/replaced"] {
        s3.objects.put(key, Bytes::from_static(b"x"), None).await.unwrap();
    }
    next(&mut s3).await.done();
    let open = next(&mut s3).await.body().clone();
    s3.objects.put("p/replaced", Bytes::from_static(b"y"), None).await.unwrap();
    let S3 { folder, host, .. } = s3;
    let credentials = host.credentials().access_key;
    drop(host);
    let mut s3 = s3_in(folder).await;
    assert_eq!(s3.host.credentials().access_key, credentials);
    assert_eq!(*next(&mut s3).await.body(), open);
    let replaced = next(&mut s3).await;
    assert_eq!(replaced.body()["Records"][0]["s3"]["object"]["eTag"], "415290769594460e2e485922904f345d");
    assert!(s3.events.try_recv().is_err());
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_an_upload_leaves_nothing_visible() {
    use pvm_application::ports::PresignObject as _;
    let s3 = s3().await;
    let signed =
        s3.objects.presign_put("p/half", 1_000_000, None, std::time::Duration::from_mins(1)).await.unwrap();
    let path = signed.url.strip_prefix(&s3.host.url()).unwrap();
    let mut socket = tokio::net::TcpStream::connect(s3.host.addr()).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\n\r\n", s3.host.addr());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![7; 600_000]).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // Closed by the server once it has seen that the body is short.
    let _ = socket.read_to_end(&mut answer).await;
    assert!(matches!(s3.objects.head("p/half").await, Err(ObjectError::NotFound)));
    let staged = s3.folder.path().join("staging");
    assert_eq!(std::fs::read_dir(staged).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_killed_process_had_staged_is_removed_and_never_seen() {
    let s3 = s3().await;
    let S3 { folder, host, .. } = s3;
    drop(host);
    // As after kill -9 in the middle of a PUT: a staged file without its facts, a note without its object.
    std::fs::write(folder.path().join("staging/.tmpabc"), vec![1; 5000]).unwrap();
    let note =
        r#"{"Records":[{"s3":{"bucket":{"name":"files"},"object":{"key":"p/never","sequencer":"01"}}}]}"#;
    std::fs::write(folder.path().join("events/01.json"), note).unwrap();
    let mut s3 = s3_in(folder).await;
    assert!(s3.events.try_recv().is_err());
    assert_eq!(std::fs::read_dir(s3.folder.path().join("staging")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(s3.folder.path().join("events")).unwrap().count(), 0);
    assert!(s3.client.list_objects_v2().bucket("files").send().await.unwrap().contents().is_empty());
}

#[tokio::test]
async fn a_taken_address_is_told_with_what_to_do() {
    let s3 = s3().await;
    let second = pvm_embedded::s3::S3Config {
        addr: s3.host.addr(),
        folder: tempfile::tempdir().unwrap().path().to_owned(),
        region: "eu-west-1".into(),
        events: None,
        events_prefix: String::new(),
    };
    let error = pvm_embedded::s3::S3Host::start(second).await.unwrap_err().to_string();
    assert!(error.contains("taken") && error.contains("PVM_S3_ADDR"), "{error}");
}
