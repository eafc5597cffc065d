//! Files: uploads by both ways reach the VM; what the VM writes is stored.

use serde_json::json;

use crate::api::Api;

/// Waits until the file's record says it is in the VM.
pub async fn synced(api: &Api, project: &str, file_id: &str) {
    for _ in 0..600 {
        if api.get(&format!("{project}/files/{file_id}")).await.expect(200)["sync_status"] == "synced" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the file was never synced");
}

/// Waits until a file of that path is recorded; answers it.
pub async fn recorded(api: &Api, project: &str, path: &str) -> serde_json::Value {
    for _ in 0..600 {
        let list = api.get(&format!("{project}/files?limit=1000")).await.expect(200);
        if let Some(file) = list["items"].as_array().unwrap().iter().find(|file| file["path"] == path) {
            return file.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{path} was never stored");
}

/// Up by both ways, into the VM, down again, gone on both sides.
pub async fn both_ways(api: &Api) {
    let path = api.project("files").await;
    let files = format!("{path}/files");
    let upload = api.request(reqwest::Method::POST, &format!("{files}?path=data/a.txt"));
    let upload = upload.header("content-type", "application/octet-stream").body("inline");
    let inline = api.send(upload).await.expect(201);
    assert_eq!((inline["path"].as_str(), inline["size"].as_u64()), (Some("data/a.txt"), Some(6)));
    assert_eq!(api.shell(&path, "cat data/a.txt").await, "inline");

    let bytes = vec![7u8; 5 * 1024 * 1024];
    let made = api.post(&files, json!({"path": "data/b.bin", "size": bytes.len()})).await.expect(201);
    let signed = &made["upload"];
    let mut put = api
        .http
        .request(signed["method"].as_str().unwrap().parse().unwrap(), signed["url"].as_str().unwrap());
    for (name, value) in signed["headers"].as_object().unwrap() {
        put = put.header(name, value.as_str().unwrap());
    }
    let put = put.body(bytes.clone()).send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.text().await.unwrap());
    let id = made["file_id"].as_str().unwrap().to_owned();
    synced(api, &path, &id).await;
    assert_eq!(api.shell(&path, "stat -c %s data/b.bin").await, "5242880\n");

    api.shell(&path, "echo made-in-vm > out.txt").await;
    let out = recorded(api, &path, "out.txt").await;
    let got = api.get(&format!("{files}/{}", out["file_id"].as_str().unwrap())).await.expect(200);
    let download = api.http.get(got["download"]["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(download.text().await.unwrap(), "made-in-vm\n");

    assert!(api.delete(&format!("{files}/{id}")).await.status < 300);
    api.get(&format!("{files}/{id}")).await.problem(404, "not_found");
    assert_eq!(api.shell(&path, "ls data").await, "a.txt\n");
}

/// The workspace comes back on a new VM.
pub async fn outlive_the_vm(api: &Api) {
    let path = api.project("outlive").await;
    api.shell(&path, "mkdir -p deep/er && echo kept > deep/er/file && echo 'x y' > 'a name with spaces'")
        .await;
    let before = api.shell(&path, "find . -type f -exec sha256sum {} + | sort").await;
    let first = api.get(&format!("{path}/status")).await.expect(200)["vm_id"].clone();
    let ended = api.delete(&format!("{path}/vm")).await;
    assert!(ended.status == 202 || ended.status == 200, "{}", ended.body);
    while api.get(&format!("{path}/status")).await.expect(200)["vm_status"] != "none" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(api.shell(&path, "find . -type f -exec sha256sum {} + | sort").await, before);
    assert_ne!(api.get(&format!("{path}/status")).await.expect(200)["vm_id"], first);
}
