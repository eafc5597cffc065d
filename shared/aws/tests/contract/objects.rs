//! Objects, and the S3 that serves them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use pvm_application::ports::{
    ByteStream, DeleteObject as _, GetObject as _, ObjectError, PresignObject as _, Presigned,
    PutObject as _, UploadParts as _, UploadedPart,
};
use pvm_aws::clients::ClientSettings;
use pvm_aws::{Objects, clients};
use pvm_embedded::s3::{S3Config, S3Event, S3Host};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub(crate) const MIB: usize = 1024 * 1024;
const MINUTE: Duration = Duration::from_mins(1);

/// A running S3 with its folder, a bucket, and the notifications of `p/`.
pub(crate) struct S3 {
    pub(crate) folder: TempDir,
    pub(crate) host: S3Host,
    pub(crate) objects: Objects,
    pub(crate) client: aws_sdk_s3::Client,
    pub(crate) events: UnboundedReceiver<S3Event>,
}

pub(crate) async fn s3_in(folder: TempDir) -> S3 {
    let (sender, events) = unbounded_channel();
    let config = S3Config {
        addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        folder: folder.path().to_owned(),
        region: "eu-west-1".into(),
        events: Some(sender),
        events_prefix: "p/".into(),
    };
    let host = S3Host::start(config).await.unwrap();
    let settings = ClientSettings {
        region: Some("eu-west-1".into()),
        credentials: Some(host.credentials()),
        s3_url: Some(host.url()),
        ..ClientSettings::default()
    };
    let client = clients::load(settings).await.s3();
    let objects = Objects::new(client.clone(), "files");
    objects.create_bucket_if_missing().await.unwrap();
    S3 { folder, host, objects, client, events }
}

pub(crate) async fn s3() -> S3 {
    s3_in(tempfile::tempdir().unwrap()).await
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes that differ from place to place.
pub(crate) fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn stream(bytes: &Bytes, piece: usize) -> ByteStream {
    let pieces: Vec<_> = bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(futures::stream::iter(pieces))
}

async fn send(signed: &Presigned, body: impl Into<reqwest::Body>) -> reqwest::Response {
    let mut request = reqwest::Client::new().request(signed.method.parse().unwrap(), &signed.url);
    for (name, value) in &signed.headers {
        // Set from the body by the client.
        if name != "content-length" {
            request = request.header(name, value);
        }
    }
    request.body(body).send().await.unwrap()
}

#[tokio::test]
async fn an_object_comes_back_whole_with_its_facts() {
    let s3 = s3().await;
    for (key, length) in [("p/a/1", 0), ("p/a/2", 1), ("p/ü /+&%2F\"", 70_000)] {
        let given = bytes(length);
        let hash = sha256(&given);
        s3.objects.put(key, given.clone(), Some(&hash)).await.unwrap();
        assert_eq!(s3.objects.get(key).await.unwrap(), given, "{key}");
        let head = s3.objects.head(key).await.unwrap();
        assert_eq!((head.size, head.sha256), (length as u64, Some(hash)));
    }
    for missing in ["p/none", "p/a", "p/a/1/x"] {
        assert!(matches!(s3.objects.get(missing).await, Err(ObjectError::NotFound)), "{missing}");
        assert!(matches!(s3.objects.head(missing).await, Err(ObjectError::NotFound)), "{missing}");
        s3.objects.delete(missing).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_may_be_the_beginning_of_another() {
    let s3 = s3().await;
    for key in ["a", "a/b", "a/b/", "a//b", "./..", "a/b/c"] {
        s3.objects.put(key, Bytes::copy_from_slice(key.as_bytes()), None).await.unwrap();
    }
    for key in ["a", "a/b", "a/b/", "a//b", "./..", "a/b/c"] {
        assert_eq!(s3.objects.get(key).await.unwrap(), key.as_bytes(), "{key}");
    }
    s3.objects.delete("a/b").await.unwrap();
    assert_eq!(s3.objects.get("a/b/c").await.unwrap(), "a/b/c");
}

#[tokio::test]
async fn a_stream_of_any_length_is_stored_in_parts_and_read_as_a_stream() {
    let s3 = s3().await;
    for length in [0, 5, 8 * MIB - 1, 8 * MIB, 20 * MIB + 3] {
        let given = bytes(length);
        let key = format!("p/stream/{length}");
        let info = s3.objects.put_stream(&key, stream(&given, 700_001)).await.unwrap();
        assert_eq!((info.size, info.sha256), (length as u64, Some(sha256(&given))));
        let (size, mut pieces) = s3.objects.get_stream(&key).await.unwrap();
        let mut hash = Sha256::new();
        while let Some(piece) = pieces.next().await {
            hash.update(piece.unwrap());
        }
        assert_eq!((size, hex::encode(hash.finalize())), (length as u64, sha256(&given)));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_leaves_no_object_and_no_upload() {
    let s3 = s3().await;
    let given = bytes(12 * MIB);
    let broken = stream(&given, MIB).chain(futures::stream::iter([Err(std::io::Error::other("reset"))]));
    assert!(s3.objects.put_stream("p/broken", Box::pin(broken)).await.is_err());
    assert!(matches!(s3.objects.head("p/broken").await, Err(ObjectError::NotFound)));
    let uploads = s3.folder.path().join("uploads");
    for _ in 0..200 {
        if std::fs::read_dir(&uploads).unwrap().next().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the upload was not aborted");
}

#[tokio::test]
async fn a_prefix_is_deleted_piece_by_piece() {
    let s3 = s3().await;
    for n in 0..25 {
        s3.objects.put(&format!("p/one/{n}"), Bytes::new(), None).await.unwrap();
    }
    s3.objects.put("p/onex", Bytes::new(), None).await.unwrap();
    let mut gone = Vec::new();
    loop {
        match s3.objects.delete_prefix("p/one/", 10).await.unwrap() {
            0 => break,
            n => gone.push(n),
        }
    }
    assert_eq!(gone, [10, 10, 5]);
    assert!(s3.objects.head("p/onex").await.is_ok());
    let left = s3.folder.path().join("buckets/files/p%2F/one%2F");
    assert!(!left.exists(), "an empty folder stayed");
}

#[tokio::test]
async fn a_signed_download_works_without_credentials_until_it_is_changed() {
    let s3 = s3().await;
    s3.objects.put("p/a", Bytes::from_static(b"hello"), None).await.unwrap();
    let signed = s3.objects.presign_get("p/a", "über.txt", MINUTE).await.unwrap();
    let answer = send(&signed, "").await;
    assert_eq!(answer.status(), 200);
    let disposition = answer.headers()["content-disposition"].to_str().unwrap().to_owned();
    assert!(disposition.starts_with("attachment") && disposition.contains("%C3%BCber.txt"), "{disposition}");
    assert_eq!(answer.text().await.unwrap(), "hello");
    let range = reqwest::Client::new().get(&signed.url).header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!((range.status().as_u16(), range.text().await.unwrap()), (206, "ell".to_owned()));
    for bad in
        [signed.url.replace("/p/a", "/p/b"), signed.url.replace("X-Amz-Expires=60", "X-Amz-Expires=600")]
    {
        assert_eq!(reqwest::get(bad).await.unwrap().status(), 403);
    }
    assert_eq!(reqwest::get(format!("{}/files/p/a", s3.host.url())).await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_signed_upload_takes_exactly_what_was_signed() {
    let s3 = s3().await;
    let given = bytes(100_000);
    let hash = sha256(&given);
    let signed = s3.objects.presign_put("p/up", 100_000, Some(&hash), MINUTE).await.unwrap();
    assert_eq!(signed.method, "PUT");
    let header =
        |name: &str| signed.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(header("content-length"), Some("100000"));
    assert_eq!(header("x-amz-meta-sha256"), Some(hash.as_str()));
    // Shorter, longer, changed, and with a header that was not signed.
    assert_eq!(send(&signed, given.slice(1..)).await.status(), 403);
    assert_eq!(send(&signed, [&given[..], b"x"].concat()).await.status(), 403);
    let mut changed = given.to_vec();
    changed[5] ^= 1;
    assert_eq!(send(&signed, changed).await.status(), 400);
    let mut more = signed.clone();
    more.headers.push(("x-amz-meta-other".into(), "1".into()));
    assert_eq!(send(&more, given.clone()).await.status(), 403);
    assert!(matches!(s3.objects.head("p/up").await, Err(ObjectError::NotFound)));
    assert_eq!(send(&signed, given.clone()).await.status(), 200);
    // An object is made, never changed, whoever still has the request.
    assert_eq!(send(&signed, given.clone()).await.status(), 412);
    assert_eq!(s3.objects.head("p/up").await.unwrap().sha256, Some(hash));
    // Without a hash, the size still counts.
    let signed = s3.objects.presign_put("p/up2", 3, None, MINUTE).await.unwrap();
    assert_eq!(send(&signed, "four").await.status(), 403);
    assert_eq!(send(&signed, "abc").await.status(), 200);
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_and_changes_nothing() {
    let s3 = s3().await;
    s3.objects.put("p/a", Bytes::from_static(b"old"), None).await.unwrap();
    let wrong = sha256(b"something else");
    assert!(s3.objects.put("p/a", Bytes::from_static(b"new"), Some(&wrong)).await.is_err());
    assert_eq!(s3.objects.get("p/a").await.unwrap(), "old");
}

#[tokio::test]
async fn web_pages_may_use_signed_links() {
    let s3 = s3().await;
    let signed = s3.objects.presign_put("p/page", 3, None, MINUTE).await.unwrap();
    let asked = reqwest::Client::new()
        .request(reqwest::Method::OPTIONS, &signed.url)
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "x-amz-meta-sha256")
        .send()
        .await
        .unwrap();
    assert_eq!(asked.status(), 204);
    assert_eq!(asked.headers()["access-control-allow-headers"], "x-amz-meta-sha256");
    let put = reqwest::Client::new().put(&signed.url).header("origin", "https://app.example");
    let put = put.header("if-none-match", "*").body("abc");
    let put = put.send().await.unwrap();
    assert_eq!(
        (put.status().as_u16(), &put.headers()["access-control-allow-origin"]),
        (200, &"*".parse().unwrap())
    );
}

#[tokio::test]
async fn conditional_requests_are_honoured() {
    let s3 = s3().await;
    let put = |body: &'static [u8]| {
        s3.client.put_object().bucket("files").key("p/c").body(Bytes::from_static(body).into())
    };
    let first = put(b"one").if_none_match("*").send().await.unwrap().e_tag.unwrap();
    assert!(put(b"two").if_none_match("*").send().await.is_err());
    assert!(put(b"two").if_match("\"other\"").send().await.is_err());
    put(b"two").if_match(&first).send().await.unwrap();
    let get = || s3.client.get_object().bucket("files").key("p/c");
    let now = get().send().await.unwrap().e_tag.unwrap();
    let unchanged = get().if_none_match(&now).send().await.unwrap_err();
    assert_eq!(unchanged.raw_response().unwrap().status().as_u16(), 304);
    assert!(get().if_match(&first).send().await.is_err());
    assert!(get().if_none_match(&first).send().await.is_ok());
}

#[tokio::test]
async fn listings_are_in_order_with_pages_and_common_prefixes() {
    let s3 = s3().await;
    let keys = ["a", "a-b", "a/x", "a/y", "a/z/1", "a0", "b/1", "ü"];
    for key in keys {
        s3.objects.put(key, Bytes::new(), None).await.unwrap();
    }
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let page = s3.client.list_objects_v2().bucket("files").max_keys(3).set_continuation_token(token);
        let page = page.send().await.unwrap();
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        token = page.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, keys);
    let level = |prefix: &str| s3.client.list_objects_v2().bucket("files").delimiter("/").prefix(prefix);
    let shown = |page: aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output| {
        let keys: Vec<_> = page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect();
        let prefixes: Vec<_> =
            page.common_prefixes().iter().map(|one| one.prefix().unwrap().to_owned()).collect();
        (keys.join(" "), prefixes.join(" "))
    };
    assert_eq!(shown(level("").send().await.unwrap()), ("a a-b a0 ü".into(), "a/ b/".into()));
    assert_eq!(shown(level("a/").send().await.unwrap()), ("a/x a/y".into(), "a/z/".into()));
    assert_eq!(shown(level("a/").start_after("a/y").send().await.unwrap()), (String::new(), "a/z/".into()));
}

#[tokio::test]
async fn a_new_object_never_takes_the_place_of_another() {
    let s3 = s3().await;
    let small = Bytes::from_static(b"one");
    s3.objects.put_new("p/small", small.clone(), &sha256(&small)).await.unwrap();
    let other = Bytes::from_static(b"two");
    let again = s3.objects.put_new("p/small", other.clone(), &sha256(&other)).await;
    assert!(matches!(again, Err(ObjectError::Exists)), "{again:?}");
    let again = s3.objects.put_new_stream("p/small", stream(&other, 2)).await;
    assert!(matches!(again, Err(ObjectError::Exists)), "{again:?}");
    assert_eq!(s3.objects.get("p/small").await.unwrap(), "one");
    // In parts it is told at their end.
    let large = bytes(9 * MIB);
    s3.objects.put_new_stream("p/large", stream(&large, MIB)).await.unwrap();
    let again = s3.objects.put_new_stream("p/large", stream(&large, MIB)).await;
    assert!(matches!(again, Err(ObjectError::Exists)), "{again:?}");
    let open = s3.client.list_multipart_uploads().bucket("files").send().await;
    assert!(open.is_err() || open.unwrap().uploads().is_empty(), "nothing is left of it");
}

#[tokio::test]
async fn others_send_the_parts_of_an_upload_by_themselves() {
    let s3 = s3().await;
    let given = bytes(7 * MIB);
    let id = s3.objects.begin_parts("p/parts").await.unwrap();
    let mut parts = Vec::new();
    for (place, piece) in given.chunks(5 * MIB).enumerate().rev() {
        let (number, size) = (place as u32 + 1, piece.len() as u64);
        let signed = s3.objects.presign_part("p/parts", &id, number, size, MINUTE).await.unwrap();
        assert_eq!(send(&signed, piece[1..].to_vec()).await.status(), 403, "shorter than was signed");
        let sent = send(&signed, piece.to_vec()).await;
        assert_eq!(sent.status(), 200);
        parts.push(UploadedPart { number, etag: sent.headers()["etag"].to_str().unwrap().to_owned() });
    }
    let backwards = s3.objects.complete_parts("p/parts", &id, &parts).await;
    assert!(matches!(backwards, Err(ObjectError::Refused(_))), "{backwards:?}");
    parts.reverse();
    let mut wrong = parts.clone();
    wrong[0].etag = "\"00000000000000000000000000000000\"".to_owned();
    let wrong = s3.objects.complete_parts("p/parts", &id, &wrong).await;
    assert!(matches!(wrong, Err(ObjectError::Refused(_))), "{wrong:?}");
    s3.objects.complete_parts("p/parts", &id, &parts).await.unwrap();
    assert_eq!(s3.objects.get("p/parts").await.unwrap(), given);
    let over = s3.objects.complete_parts("p/parts", &id, &parts).await;
    assert!(matches!(over, Err(ObjectError::NotFound)), "{over:?}");
    let id = s3.objects.begin_parts("p/never").await.unwrap();
    for _ in 0..2 {
        s3.objects.abort_parts("p/never", &id).await.unwrap();
    }
    assert!(matches!(s3.objects.head("p/never").await, Err(ObjectError::NotFound)));
}
