//! Large workspaces and large files, with bounded memory. The heaviest are for `make test-full`.

use std::time::Instant;

use pvm_application::files::save::Outcome;
use pvm_application::files::upload::Announced;

use crate::rig::Rig;

#[expect(clippy::print_stdout, reason = "shown with --nocapture; figures are the bench's")]
fn tell(text: &str) {
    println!("{text}");
}

/// Saves a tree of so many small files and restores it on a new VM.
async fn many(count: usize) {
    let mut rig = Rig::start().await;
    let make = format!(
        "for d in $(seq 0 {}); do mkdir -p d$d; for f in $(seq 0 99); do printf '%1024s' \"$d.$f\" > d$d/f$f; done; done",
        count / 100 - 1
    );
    rig.sh(&make).await;
    let start = Instant::now();
    assert_eq!(rig.save().await, Outcome { saved: count, ..Outcome::default() });
    let saved = start.elapsed();
    let _ = rig.take_events();
    let before = rig.sh("find . -type f | sort | xargs sha256sum | sha256sum").await;
    rig.new_vm().await;
    let start = Instant::now();
    assert_eq!(rig.save().await, Outcome { pushed: count, ..Outcome::default() });
    tell(&format!("{count} files saved in {saved:.1?}, restored in {:.1?}", start.elapsed()));
    assert!(rig.differing().await.is_empty());
    assert_eq!(rig.sh("find . -type f | sort | xargs sha256sum | sha256sum").await, before);
    assert!(rig.save().await.is_quiet(), "nothing is left to do");
    // A folder that is renamed moves its files without a byte stored again.
    rig.sh("mv d0 renamed").await;
    let _ = rig.take_events();
    assert_eq!(rig.save().await, Outcome { moved: 100, ..Outcome::default() });
    assert!(rig.take_events().is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_many_small_files_is_saved_and_restored() {
    many(600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten thousand files: make test-full"]
async fn a_tree_of_ten_thousand_files_is_saved_and_restored() {
    many(10_000).await;
}

/// The most memory of this process since the last call, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak
}

/// A file goes up in one request, into the VM, is changed there and saved. With `bounded`, this process (records, objects,
/// sandbox server and all) must not grow by more than so many MiB.
async fn large(bytes: u64, bounded: Option<u64>) {
    let mut rig = Rig::start().await;
    let piece = bytes::Bytes::from(vec![b'x'; 1024 * 1024]);
    let _ = peak_kib();
    let before = peak_kib();
    let pieces = futures::stream::iter(
        (0..bytes / piece.len() as u64).map(move |_| Ok::<_, std::io::Error>(piece.clone())),
    );
    let announced = Announced { size: bytes, ..Announced::default() };
    let (_, way) = rig.announce("big", announced).await.unwrap();
    assert_eq!(rig.send(&way, reqwest::Body::wrap_stream(pieces)).await, 200);
    rig.deliver_all().await;
    assert_eq!(rig.sh("stat -c %s big").await, format!("{bytes}\n"));
    rig.sh("printf y >> big").await;
    assert_eq!(rig.save().await.saved, 1);
    assert_eq!(rig.record("big").await.size, bytes + 1);
    rig.new_vm().await;
    assert_eq!(rig.save().await.pushed, 1);
    assert!(rig.differing().await.is_empty());
    let grown = (peak_kib().saturating_sub(before)) / 1024;
    if let Some(most) = bounded {
        assert!(grown <= most, "{bytes} bytes took {grown} MiB of memory");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_goes_both_ways() {
    large(24 * 1024 * 1024, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a GiB: make test-full"]
async fn a_file_of_a_gib_goes_both_ways_with_little_memory() {
    const ALONE: &str = "PVM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return large(1024 * 1024 * 1024, Some(64)).await;
    }
    // Other tests of this process would be measured with it, so it has a process of its own.
    let mut alone = tokio::process::Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "large::a_file_of_a_gib_goes_both_ways_with_little_memory", "--ignored"]);
    let done = alone.env(ALONE, "1").kill_on_drop(true).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
