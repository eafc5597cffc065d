//! Files: sent in the request, as a form, or straight to the store.

use serde_json::json;

use crate::parts::house;

#[tokio::test]
async fn a_file_is_uploaded_listed_downloaded_and_deleted() {
    let house = house().await;
    let files = format!("/api/projects/{}/files", house.project().await);
    let upload = |path: &str, bytes: &'static str| {
        let ask = house.ask("POST", &format!("{files}?path={path}")).token(&house.ann);
        ask.bytes("application/octet-stream", bytes).send()
    };
    let made = upload("data/a.csv", "1,2\n").await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!((made.body["size"].as_u64(), made.body["sync_status"].as_str()), (Some(4), Some("pending")));
    let again = upload("data/a.csv", "1,2,3\n").await;
    assert_eq!(again.body["file_id"], made.body["file_id"], "the same path is the same file");
    upload("b.txt", "").await;
    let listed = house.get(&files).await;
    let paths: Vec<_> =
        listed.body["items"].as_array().unwrap().iter().map(|it| it["path"].clone()).collect();
    assert_eq!(paths, ["b.txt", "data/a.csv"]);
    let listed = house.get(&format!("{files}?prefix=data/")).await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 1);
    let one = format!("{files}/{}", made.text("file_id"));
    let shown = house.get(&one).await;
    assert!(shown.body["download"]["url"].as_str().unwrap().ends_with("/2"), "{}", shown.body);
    assert_eq!(shown.body["size"], 6);
    assert_eq!(house.ask("DELETE", &one).token(&house.ann).send().await.status, 204);
    assert_eq!(house.get(&one).await.status, 404);
    assert_eq!(house.app.objects.0.lock().unwrap().len(), 1, "all versions are gone");
}

#[tokio::test]
async fn a_form_and_a_presigned_upload_work_as_well() {
    let house = house().await;
    let files = format!("/api/projects/{}/files", house.project().await);
    let form = |boundary: &str| {
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n\u{0}\u{1}\r\n--{boundary}--\r\n"
        );
        let ask = house.ask("POST", &files).token(&house.ann).header("idempotency-key", "f");
        ask.bytes(&format!("multipart/form-data; boundary={boundary}"), body).send()
    };
    let (one, two) = (form("X1").await, form("X2").await);
    assert_eq!(one.status, 201, "{}", one.body);
    assert_eq!(one.body["file_id"], two.body["file_id"], "a replay may have another boundary");
    let asked = house.post(&files, &json!({"path": "big.bin", "size": 5_000_000_000_u64})).await;
    assert_eq!(asked.status, 201, "{}", asked.body);
    assert_eq!(asked.body["upload"]["method"], "PUT");
    assert_eq!(asked.body["upload"]["headers"]["content-length"], "5000000000");
    let shown = house.get(&format!("{files}/{}", asked.text("file_id"))).await;
    assert!(shown.body["download"].is_null(), "nothing has arrived yet");
}

#[tokio::test]
async fn a_path_or_size_that_cannot_be_is_refused_and_nothing_is_left() {
    let house = house().await;
    let files = format!("/api/projects/{}/files", house.project().await);
    for path in ["../x", "a/../../x", "/etc/passwd", "a%00b", "dir/", &"a".repeat(1001)] {
        let ask = house.ask("POST", &format!("{files}?path={path}")).token(&house.ann);
        let answer = ask.bytes("application/octet-stream", "x").send().await;
        assert_eq!(answer.field(), "path", "{path}");
    }
    let none =
        house.ask("POST", &files).token(&house.ann).bytes("application/octet-stream", "x").send().await;
    assert_eq!(none.field(), "path");
    let field = async |body: serde_json::Value| house.post(&files, &body).await.field().to_owned();
    assert_eq!(field(json!({"path": "a", "size": -1})).await, "size");
    assert_eq!(field(json!({"path": "a", "size": 21_474_836_481_u64})).await, "size");
    assert_eq!(field(json!({"path": "a", "size": 1, "sha256": "x"})).await, "sha256");
    let ask = house.ask("POST", &format!("{files}?path=a")).token(&house.ann);
    let long = ask.bytes("application/octet-stream", vec![0; 4 * 1024 * 1024 + 1]).send().await;
    assert_eq!(long.code(), (413, "too_large"));
    assert_eq!(house.get(&files).await.body["items"], json!([]));
    assert!(house.app.objects.0.lock().unwrap().is_empty());
}
