//! Files in a VM.

use bytes::Bytes;
use futures::StreamExt as _;
use pvm_application::ports::{
    ByteStream, EntryKind, NewContent, NewEntry, RunCommands as _, VmError, VmFiles as _,
};
use sha2::{Digest as _, Sha256};

use crate::bench::with_bench;
use crate::runs::spec;

const MIB: usize = 1024 * 1024;

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_any_length_go_in_and_out_unchanged() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let client = &bench.client;
        for length in [0, 1, 20 * MIB + 7] {
            let given = bytes(length);
            let path = format!("/home/user/deep/er/ü {length}");
            let pieces: Vec<_> =
                given.chunks(100_003).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let stream: ByteStream = Box::pin(futures::stream::iter(pieces));
            client.write_file_stream(&vm, &path, "user", length as u64, stream).await.unwrap();
            let (size, mut pieces) = client.read_file_stream(&vm, &path, "user").await.unwrap();
            let mut hash = Sha256::new();
            while let Some(piece) = pieces.next().await {
                hash.update(piece.unwrap());
            }
            assert_eq!((size, hash.finalize()), (length as u64, Sha256::digest(&given)));
        }
        let entry = client.stat(&vm, "/home/user/deep/er/ü 1", "user").await.unwrap().unwrap();
        assert_eq!((entry.kind, entry.size, entry.owner.as_str()), (EntryKind::File, 1, "user"));
        assert!(entry.modified_ns > 1_600_000_000_000_000_000);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_too_long_or_no_file_is_told_apart() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let client = &bench.client;
        client.write_file(&vm, "/tmp/a", "user", Bytes::from_static(b"12345")).await.unwrap();
        assert_eq!(client.read_file(&vm, "/tmp/a", "user", 5).await.unwrap(), "12345");
        assert!(matches!(client.read_file(&vm, "/tmp/a", "user", 4).await, Err(VmError::Refused(_))));
        assert!(matches!(client.read_file(&vm, "/tmp/none", "user", 4).await, Err(VmError::NotFound(_))));
        assert!(matches!(client.read_file(&vm, "/tmp", "user", 4).await, Err(VmError::Refused(_))));
        assert!(matches!(client.read_file_stream(&vm, "/tmp/none", "user").await, Err(VmError::NotFound(_))));
        assert_eq!(client.stat(&vm, "/tmp/none", "user").await.unwrap(), None);
        assert!(matches!(client.list_dir(&vm, "/tmp/none", "user", 1).await, Err(VmError::NotFound(_))));
        client.write_file(&vm, "/tmp/d/e/f", "user", Bytes::new()).await.unwrap();
        let mut names: Vec<_> = client
            .list_dir(&vm, "/tmp/d", "user", 2)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.path)
            .collect();
        names.sort();
        assert_eq!(names, ["/tmp/d/e", "/tmp/d/e/f"]);
        for _ in 0..2 {
            client.remove(&vm, "/tmp/d", "user").await.unwrap();
        }
        assert_eq!(client.stat(&vm, "/tmp/d", "user").await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_an_error() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let pieces = vec![Ok(bytes(MIB)), Err(std::io::Error::other("reset"))];
        let stream: ByteStream = Box::pin(futures::stream::iter(pieces));
        let sent = bench.client.write_file_stream(&vm, "/tmp/broken", "user", 5 * MIB as u64, stream).await;
        assert!(matches!(sent, Err(VmError::Unavailable(_))), "{sent:?}");
    })
    .await;
}

/// By our envd in one request, by the file API and a script on servers of others: the same comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn many_entries_are_written_and_read_alike_by_both_ways() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for (name, client) in [("envd", &bench.client), ("script", &bench.scripted)] {
            let entry = |path: &str, mode: u32, content| NewEntry { path: format!("{name}/{path}"), mode, content };
            let large = bytes(3 * MIB);
            let pieces: Vec<_> = large.chunks(70_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let stream = NewContent::Stream { size: large.len() as u64, bytes: Box::pin(futures::stream::iter(pieces)) };
            let entries = vec![
                entry("run me", 0o755, NewContent::Bytes("#!/bin/sh\n".into())),
                entry("deep/er/large", 0o600, stream),
                entry("empty", 0o644, NewContent::Bytes(Bytes::new())),
                entry("-rf", 0o644, NewContent::Bytes("odd".into())),
                entry("link", 0o777, NewContent::Link("run me".to_owned())),
                entry("deep/out", 0o777, NewContent::Link("/etc/hostname".to_owned())),
                entry("empty", 0o640, NewContent::Mode),
                entry("none", 0o640, NewContent::Mode),
            ];
            let failures = client.write_many(&vm, entries).await.unwrap();
            assert_eq!(failures.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, false, false, false, false, false, true], "{failures:?}");
            let again = vec![
                entry("run me", 0o700, NewContent::Bytes("new".into())),
                entry("link", 0o777, NewContent::Link("empty".to_owned())),
            ];
            assert_eq!(client.write_many(&vm, again).await.unwrap(), [None, None]);
            let facts = format!(
                "cd /workspace/{name} && stat -c '%n %a %U' 'run me' deep/er/large empty ./-rf; readlink link deep/out; ls -A | wc -l"
            );
            let seen = client.start_run(&vm, &spec(format!("cmd_{name}"), &facts), std::time::Duration::from_secs(20)).await.unwrap();
            assert_eq!(
                String::from_utf8_lossy(&seen.stdout.data),
                "run me 700 user\ndeep/er/large 600 user\nempty 640 user\n./-rf 644 user\nempty\n/etc/hostname\n5\n",
                "{name}"
            );
            let path = |path: &str| format!("{name}/{path}");
            let paths = ["run me", "deep/er/large", "none", "deep", "empty", "-rf"].map(path);
            let read = client.read_many(&vm, &paths, 1000).await.unwrap();
            let read: Vec<Option<&[u8]>> = read.iter().map(Option::as_deref).collect();
            assert_eq!(read, [Some(&b"new"[..]), None, None, None, Some(b""), Some(b"odd")], "{name}");
            let read = client.read_many(&vm, &paths[1..2], 4 * MIB as u64).await.unwrap();
            assert_eq!(read, [Some(large)], "{name}");
            assert_eq!(client.present(&vm, &paths).await.unwrap(), [true, true, false, false, true, true], "{name}");
        }
    })
    .await;
}
