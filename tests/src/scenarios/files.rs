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

/// Sends bytes by a signed request; answers the `ETag`.
pub async fn send_signed(api: &Api, signed: &serde_json::Value, bytes: Vec<u8>) -> reqwest::Response {
    let method = signed["method"].as_str().unwrap().parse().unwrap();
    let mut put = api.http.request(method, signed["url"].as_str().unwrap());
    for (name, value) in signed["headers"].as_object().unwrap() {
        put = put.header(name, value.as_str().unwrap());
    }
    put.body(bytes).send().await.unwrap()
}

async fn upload(api: &Api, project: &str, path: &str, bytes: impl Into<reqwest::Body>) -> serde_json::Value {
    let upload = api.request(reqwest::Method::POST, &format!("{project}/files?path={path}"));
    api.send(upload.header("content-type", "application/octet-stream").body(bytes)).await.expect(201)
}

/// In parts: sent in any order, completed once, refused where a part is missing or the whole has another hash, given up.
pub async fn in_parts(api: &Api) {
    let path = api.project("parts").await;
    let files = format!("{path}/files");
    // Two parts: the smallest part size and a bit.
    let bytes: Vec<u8> = (0..17 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    let body =
        json!({"path": "big.bin", "size": bytes.len(), "sha256": sha256, "in_parts": true, "mode": "600"});
    let made = api.post(&files, body.clone()).await.expect(201);
    assert!(made["upload"].is_null(), "{made}");
    let part_size = made["parts"]["part_size"].as_u64().unwrap() as usize;
    let requests = made["parts"]["requests"].as_array().unwrap();
    assert_eq!(requests.len(), bytes.len().div_ceil(part_size));
    let id = made["file_id"].as_str().unwrap();
    let send = async |made: &serde_json::Value, bytes: &[u8]| {
        let mut sent = Vec::new();
        let pieces: Vec<&[u8]> = bytes.chunks(part_size).collect();
        for (place, request) in made["parts"]["requests"].as_array().unwrap().iter().enumerate().rev() {
            let answer = send_signed(api, request, pieces[place].to_vec()).await;
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
            let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
            sent.push(json!({"part_number": place + 1, "etag": etag}));
        }
        sent.reverse();
        sent
    };
    let sent = send(&made, &bytes).await;
    api.post(&format!("{files}/{id}/upload"), json!({"parts": [sent[0]]})).await.refuses("parts");
    let done = api.post(&format!("{files}/{id}/upload"), json!({"parts": sent})).await.expect(202);
    assert_eq!(done["file_id"], id);
    let seen = api.shell(&path, "for i in $(seq 300); do [ -s big.bin ] && break; sleep 0.1; done; sha256sum big.bin; stat -c %a big.bin").await;
    assert_eq!(seen, format!("{sha256}  big.bin\n600\n"));
    synced(api, &path, id).await;
    assert_eq!(api.get(&format!("{files}/{id}")).await.expect(200)["sha256"], sha256.as_str());
    let over = api.post(&format!("{files}/{id}/upload"), json!({"parts": sent})).await;
    over.problem(409, "conflict");

    // Other bytes than announced: the version before stays, and the reason is told.
    let made = api.post(&files, body.clone()).await.expect(201);
    let mut wrong = bytes.clone();
    wrong[0] ^= 1;
    let sent = send(&made, &wrong).await;
    api.post(&format!("{files}/{id}/upload"), json!({"parts": sent})).await.expect(202);
    let file = loop {
        let file = api.get(&format!("{files}/{id}")).await.expect(200);
        if file["sync_error"].is_string() {
            break file;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(file["sync_error"].as_str().unwrap().contains(&sha256), "{file}");
    assert_eq!(file["sha256"], sha256.as_str());

    let made = api.post(&files, json!({"path": "never.bin", "size": 10, "in_parts": true})).await.expect(201);
    let id = made["file_id"].as_str().unwrap();
    assert_eq!(api.delete(&format!("{files}/{id}/upload")).await.status, 204);
    api.get(&format!("{files}/{id}")).await.problem(404, "not_found");
    api.post(&files, json!({"path": "x", "size": 21_474_836_481_u64})).await.refuses("size");
}

/// Earlier versions are listed, downloaded and brought back; a file that is moved keeps them.
pub async fn versions(api: &Api) {
    let path = api.project("versions").await;
    let file = upload(api, &path, "a.txt", "one").await;
    let id = file["file_id"].as_str().unwrap().to_owned();
    let one = format!("{path}/files/{id}");
    synced_or_no_vm(api, &one).await;
    upload(api, &path, "a.txt", "two").await;
    assert_eq!(api.shell(&path, "cat a.txt").await, "two");
    api.shell(&path, "printf three > a.txt; chmod 750 a.txt").await;
    let number = |version: &serde_json::Value| version["number"].as_u64().unwrap();
    let listed = loop {
        let listed =
            api.get(&format!("{one}/versions")).await.expect(200)["items"].as_array().unwrap().clone();
        if listed.len() == 3 {
            break listed;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(
        listed.iter().map(|version| version["current"] == true).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert_eq!(listed[0]["mode"], "750");
    let first = number(&listed[2]);
    let shown = api.get(&format!("{one}/versions/{first}")).await.expect(200);
    let download = api.http.get(shown["download"]["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(download.text().await.unwrap(), "one");
    api.shell(&path, "mkdir -p sub && mv a.txt sub/b.txt").await;
    let moved = recorded(api, &path, "sub/b.txt").await;
    assert_eq!(moved["file_id"], id.as_str(), "a file that is moved is the same file");
    let back = api.post(&format!("{one}/versions/{first}/restore"), json!({})).await.expect(200);
    assert_eq!((back["size"].as_u64(), back["path"].as_str()), (Some(3), Some("sub/b.txt")));
    synced(api, &path, &id).await;
    assert_eq!(api.shell(&path, "cat sub/b.txt; stat -c %a sub/b.txt").await, "one644\n");
    let listed = api.get(&format!("{one}/versions")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 4, "what was current before is kept: {listed}");
    // Restored again from the restored one, the bytes are still found.
    let current = number(&listed["items"][0]);
    api.post(&format!("{one}/versions/{current}/restore"), json!({})).await.expect(200);
    let got = api.get(&one).await.expect(200);
    let download = api.http.get(got["download"]["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(download.text().await.unwrap(), "one");
    for wrong in ["99", "0", "x", "-1"] {
        api.get(&format!("{one}/versions/{wrong}")).await.problem(404, "not_found");
    }
    assert_eq!(api.delete(&one).await.status, 204);
    api.get(&format!("{one}/versions")).await.problem(404, "not_found");
}

/// A file that is deleted inside the VM is listed as such, and comes back with its versions; deleting it for good ends that.
pub async fn deleted(api: &Api) {
    let path = api.project("deleted").await;
    let files = format!("{path}/files");
    let gone = async || {
        let listed = api.get(&format!("{files}?deleted=true&prefix=no")).await.expect(200);
        listed["items"].as_array().unwrap().clone()
    };
    api.shell(&path, "printf one > notes.txt; printf x > other.txt").await;
    let file = recorded(api, &path, "notes.txt").await;
    assert_eq!(file["deleted_at"], json!(null));
    let one = format!("{files}/{}", file["file_id"].as_str().unwrap());
    api.shell(&path, "rm notes.txt other.txt").await;
    let found = loop {
        if let Some(found) = gone().await.first() {
            break found.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!((&found["path"], &found["file_id"]), (&json!("notes.txt"), &file["file_id"]));
    assert!(found["deleted_at"].is_string(), "{found}");
    api.get(&one).await.problem(404, "not_found");
    let versions = api.get(&format!("{one}/versions")).await.expect(200);
    let version = &versions["items"][0];
    assert_eq!((&version["size"], &version["current"]), (&json!(3), &json!(false)), "{versions}");
    let number = version["number"].as_u64().unwrap();
    let shown = api.get(&format!("{one}/versions/{number}")).await.expect(200);
    let download = api.http.get(shown["download"]["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(download.text().await.unwrap(), "one");
    let back = api.post(&format!("{one}/versions/{number}/restore"), json!({})).await.expect(200);
    assert_eq!((&back["path"], &back["deleted_at"]), (&json!("notes.txt"), &json!(null)));
    synced(api, &path, file["file_id"].as_str().unwrap()).await;
    assert_eq!(api.shell(&path, "cat notes.txt").await, "one");
    assert!(gone().await.is_empty());

    api.shell(&path, "rm notes.txt").await;
    while gone().await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(api.delete(&one).await.status, 204);
    assert!(gone().await.is_empty());
    api.get(&format!("{one}/versions")).await.problem(404, "not_found");
    api.get(&format!("{files}?deleted=maybe")).await.refuses("deleted");
}

/// Without a VM a file stays pending; with one it is synced soon.
async fn synced_or_no_vm(api: &Api, file: &str) {
    assert!(matches!(api.get(file).await.expect(200)["sync_status"].as_str(), Some("pending" | "synced")));
}

/// Links and permission bits survive the VM; what an ignore file names does not leave it.
pub async fn links_and_modes(api: &Api) {
    let path = api.project("links").await;
    api.shell(
        &path,
        "mkdir -p bin node_modules/x && printf '#!/bin/sh\\necho hi\\n' > bin/run && chmod 755 bin/run && \
         ln -s bin/run go && ln -s /etc/hostname out && ln -s nowhere dangling && echo k > bin/key && \
         chmod 600 bin/key && echo gone > node_modules/x/y && printf '*.log\\n!keep.log\\n' > .pvmignore && \
         touch a.log keep.log && mkdir empty",
    )
    .await;
    let facts = "for f in bin/run bin/key go out dangling keep.log; do stat -c '%n %F %a' $f | sed 's/symbolic link .*/link/'; done; \
                 readlink go out dangling; ./go; ls node_modules a.log 2>&1 | grep -c 'No such'";
    let ended = api.delete(&format!("{path}/vm")).await;
    assert!(ended.status == 202 || ended.status == 200, "{}", ended.body);
    while api.get(&format!("{path}/status")).await.expect(200)["vm_status"] != "none" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let seen = api.shell(&path, facts).await;
    let expected = "bin/run regular file 755\nbin/key regular file 600\ngo link\nout link\ndangling link\n\
                    keep.log regular empty file 644\nbin/run\n/etc/hostname\nnowhere\nhi\n2\n";
    assert_eq!(seen, expected);
    let restored = api.events(&format!("{path}/events")).await;
    let restored: Vec<_> = restored.iter().filter(|event| event["type"] == "workspace.restored").collect();
    let last = &restored.last().expect("a restored workspace is proved")["data"];
    assert_eq!((last["equal"].as_bool(), last["links"].as_u64()), (Some(true), Some(3)), "{last}");
    assert_eq!(last["manifest_sha256"].as_str().unwrap().len(), 64);
    api.shell(&path, "rm go && chmod 700 bin/run").await;
    let file = recorded(api, &path, "bin/run").await;
    let one = format!("{path}/files/{}", file["file_id"].as_str().unwrap());
    while api.get(&one).await.expect(200)["mode"] != "700" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// The whole workspace as one archive, links and permission bits included.
pub async fn archive(api: &Api) {
    let path = api.project("archive").await;
    upload(api, &path, "docs/read%20me.txt", "hello").await;
    upload(api, &path, &format!("{}/deep.txt", "long-name/".repeat(20)), "deep").await;
    api.shell(&path, "head -c 3000000 /dev/urandom > big.bin; printf x > run; chmod 755 run; ln -s run link")
        .await;
    let expected = api
        .shell(&path, "find . -type f -printf '%P %m ' -exec sha256sum {} \\; | sed 's/ .\\/.*//' | sort")
        .await;
    let made = api.post(&format!("{path}/archives"), json!({})).await.expect(202);
    let one = format!("{path}/archives/{}", made["archive_id"].as_str().unwrap());
    let mut archive = api.get(&format!("{one}?wait=20")).await.expect(200);
    for _ in 0..30 {
        if archive["status"] != "building" {
            break;
        }
        archive = api.get(&format!("{one}?wait=20")).await.expect(200);
    }
    assert_eq!(archive["status"], "ready", "{archive}");
    let bytes = api
        .http
        .get(archive["download"]["url"].as_str().unwrap())
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(archive["size"].as_u64().unwrap(), bytes.len() as u64);
    assert_eq!(archive["sha256"], hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)));
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(zstd::Decoder::new(&bytes[..]).unwrap()).unpack(folder.path()).unwrap();
    let listed = std::process::Command::new("sh")
        .args(["-c", "find . -type f -printf '%P %m ' -exec sha256sum {} \\; | sed 's/ .\\/.*//' | sort; readlink link"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), format!("{expected}run\n"));
    assert_eq!(archive["entries"].as_u64().unwrap() as usize, expected.lines().count() + 1);
    api.get(&format!("{path}/archives/arc_00000000000000000000000000")).await.problem(404, "not_found");
}
