//! What can be wrong with a file: each is told clearly, nothing is lost, and the next try works.

use jiff::SignedDuration;
use pvm_application::files::upload::{Announced, Way};
use pvm_application::files::{expire, save};
use pvm_application::ports::{
    Clock, DeleteObject as _, EntryKind, NewContent, NewEntry, NewId, VmFiles as _,
};
use pvm_domain::Timestamp;
use pvm_domain::file::{SyncStatus, object_key};
use pvm_domain::ids::PrefixedId;
use pvm_entry::System;

use crate::rig::Rig;

/// The time that another clock would tell.
struct Later(SignedDuration);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        System.now() + self.0
    }
    async fn sleep(&self, time: std::time::Duration) {
        System.sleep(time).await;
    }
}
impl NewId for Later {
    fn new_id<I: PrefixedId>(&self) -> I {
        System.new_id()
    }
}

fn announced(size: u64) -> Announced {
    Announced { size, ..Announced::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_never_comes_is_given_up_and_leaves_nothing() {
    let mut rig = Rig::start().await;
    rig.announce("never", announced(3)).await.unwrap();
    let parts = Announced { in_parts: true, ..announced(3) };
    rig.announce("parts", parts.clone()).await.unwrap();
    rig.upload("kept", "one").await.unwrap();
    rig.announce("kept", announced(3)).await.unwrap();
    assert_eq!(rig.save().await.saved, 0);
    assert_eq!(expire::sweep(&rig.store, &rig.objects, &System, 100).await.unwrap(), 0, "it is not time yet");
    let later = Later(SignedDuration::from_hours(48));
    assert_eq!(expire::sweep(&rig.store, &rig.objects, &later, 100).await.unwrap(), 3);
    let records = rig.records().await;
    assert_eq!(records.keys().collect::<Vec<_>>(), ["kept"]);
    assert!(records["kept"].uploads.is_empty());
    assert_eq!(expire::sweep(&rig.store, &rig.objects, &later, 100).await.unwrap(), 0);
    // The next try works.
    let (_, way) = rig.announce("never", announced(3)).await.unwrap();
    assert_eq!(rig.send(&way, "now").await, 200);
    rig.deliver_all().await;
    assert_eq!(rig.sh("cat never").await, "now");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_not_what_was_announced_are_refused_by_the_store() {
    let mut rig = Rig::start().await;
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("right"));
    let (file, way) = rig.announce("a", Announced { sha256: Some(sha256), ..announced(5) }).await.unwrap();
    assert_eq!(rig.send(&way, "wrong").await, 400);
    rig.deliver_all().await;
    assert_eq!(rig.record("a").await.object_version, 0);
    assert_eq!(rig.send(&way, "right").await, 200, "the same request is still good");
    // An object is made once: whoever has the request cannot change it afterwards.
    assert_eq!(rig.send(&way, "right").await, 412);
    rig.deliver_all().await;
    assert_eq!(rig.sh("cat a").await, "right");
    assert_eq!(rig.record("a").await.file_id, file.file_id);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_gone_before_it_is_synced_is_told() {
    let mut rig = Rig::start().await;
    let (file, way) = rig.announce("a", announced(3)).await.unwrap();
    assert_eq!(rig.send(&way, "one").await, 200);
    rig.objects.delete(&object_key(&rig.project_id, &file.file_id, 1)).await.unwrap();
    rig.deliver_all().await;
    let record = rig.record("a").await;
    assert_eq!(record.sync_status, SyncStatus::Failed);
    assert!(record.sync_error.unwrap().contains("upload it again"));
    // One that was taken over already.
    let stored = rig.upload("b", "two").await.unwrap();
    rig.objects.delete(&stored.current_key()).await.unwrap();
    rig.deliver_all().await;
    let record = rig.record("b").await;
    assert_eq!((record.sync_status, record.object_version), (SyncStatus::Failed, 1));
    assert_eq!(rig.save().await.failed, 1);
    for path in ["a", "b"] {
        rig.upload(path, "again").await.unwrap();
        rig.deliver_all().await;
        assert_eq!(rig.sh(&format!("cat {path}")).await, "again");
        assert_eq!(rig.record(path).await.sync_error, None);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_come_twice_late_or_for_nothing_do_no_harm() {
    let mut rig = Rig::start().await;
    rig.upload("a", "one").await.unwrap();
    rig.upload("a", "two").await.unwrap();
    rig.upload("b", "b").await.unwrap();
    let events = rig.take_events();
    for event in events.iter().rev().chain(&events) {
        rig.deliver(event).await.unwrap();
    }
    assert_eq!(rig.sh("cat a b").await, "twob");
    let before = rig.record("a").await.version;
    for event in &events {
        rig.deliver(event).await.unwrap();
    }
    assert_eq!(
        rig.record("a").await.version,
        before,
        "nothing is written for an event that tells nothing new"
    );
    let file = rig.record("b").await;
    rig.delete(&file.file_id).await.unwrap();
    for event in &events {
        rig.deliver(event).await.unwrap();
    }
    assert_eq!(rig.sh("ls").await, "a\n");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_are_kept_where_both_sides_changed_a_file() {
    let mut rig = Rig::start().await;
    rig.upload("dir/a", "one").await.unwrap();
    rig.deliver_all().await;
    rig.sh("printf mine > dir/a").await;
    rig.upload("dir/a", "yours").await.unwrap();
    rig.deliver_all().await;
    assert_eq!(rig.sh("cat dir/a").await, "yours");
    assert_eq!(rig.sh("cat dir/a.vm-*").await, "mine");
    assert!(rig.save().await.is_quiet());
    assert_eq!(rig.records().await.len(), 2);
    // An upload that arrives after the VM's change was saved is kept as a version.
    let (_, way) = rig.announce("dir/a", announced(4)).await.unwrap();
    rig.send(&way, "late").await;
    rig.sh("printf newer > dir/a").await;
    rig.save().await;
    rig.deliver_all().await;
    assert_eq!(rig.sh("cat dir/a").await, "newer");
    let file = rig.record("dir/a").await;
    let Rig { store, principal, project_id, .. } = &rig;
    let versions =
        pvm_application::files::history::list(store, principal, project_id, &file.file_id).await.unwrap();
    assert!(versions.all.iter().any(|version| version.size == 4), "{versions:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_are_saved_or_passed_over_and_never_lead_elsewhere() {
    let mut rig = Rig::start().await;
    let long = "n".repeat(255);
    rig.sh(&format!(
        "printf 1 > Case; printf 2 > case; printf 3 > $'new\\nline'; printf 4 > {long}; printf 5 > ' lead'; \
         printf 6 > $'\\xff\\xfe'; ln -s /etc out; mkdir -p real && ln -s real in; mkfifo pipe; printf 7 > '-rf'"
    ))
    .await;
    rig.save().await;
    let stored: Vec<String> = rig.records().await.into_keys().collect();
    assert_eq!(stored, [" lead", "-rf", "Case", "case", "new\nline", &long]);
    rig.new_vm().await;
    rig.save().await;
    assert!(rig.differing().await.is_empty());
    assert_eq!(rig.sh(&format!("cat Case case $'new\\nline' {long} ' lead' ./-rf")).await, "123457");
    // An empty folder is not kept.
    rig.sh("mkdir real").await;
    // A link out of the workspace is kept as a link, and nothing is written through it or through one inside.
    for path in ["out/passwd", "in/x"] {
        rig.upload(path, "x").await.unwrap();
    }
    rig.deliver_all().await;
    for path in ["out/passwd", "in/x"] {
        let record = rig.record(path).await;
        assert_eq!(record.sync_status, SyncStatus::Failed, "{path}");
        assert!(record.sync_error.unwrap().contains("symbolic link"), "{path}");
    }
    assert_eq!(rig.sh("ls -A real; grep -c root: /etc/passwd; readlink out").await, "1\n/etc\n");
    assert_eq!(rig.save().await.failed, 2);
    let entry =
        |path: &str| NewEntry { path: path.to_owned(), mode: 0o644, content: NewContent::Bytes("x".into()) };
    let told = rig.write(["../x", "/etc/x", "a/../../x", "", "out/x", "real"].map(entry).into()).await;
    assert!(told.iter().all(Option::is_some), "{told:?}");
    // A file where the VM has a folder, and the other way round.
    rig.upload("real", "file").await.unwrap();
    rig.upload("case/below", "x").await.unwrap();
    rig.deliver_all().await;
    assert!(rig.record("real").await.sync_error.unwrap().contains("folder"));
    assert!(rig.record("case/below").await.sync_error.is_some());
    rig.sh("rm -r real in case && rm out").await;
    rig.save().await;
    rig.save().await;
    assert_eq!(rig.sh("cat real in/x out/passwd").await, "filexx", "the next try works");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_the_next_try_works() {
    let mut rig = Rig::start_with(|config| config.limits.disk_mb = 64).await;
    // Longer than any file may be there.
    let (_, way) = rig.announce("big", announced(80 * 1024 * 1024)).await.unwrap();
    assert_eq!(rig.send(&way, vec![7; 80 * 1024 * 1024]).await, 200);
    rig.upload("small", "fits").await.unwrap();
    rig.deliver_all().await;
    let record = rig.record("big").await;
    assert_eq!(record.sync_status, SyncStatus::Failed);
    assert!(record.sync_error.unwrap().contains("disk is full"));
    assert_eq!(
        rig.sh("cat small; ls -A").await.replace('\n', " "),
        "fitssmall ",
        "no half of a file is left"
    );
    assert_eq!(rig.save().await.failed, 1);
    rig.upload("big", "less").await.unwrap();
    rig.deliver_all().await;
    assert_eq!(rig.sh("cat big").await, "less");
    assert_eq!(rig.record("big").await.sync_status, SyncStatus::Synced);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ignore_file_hides_is_neither_saved_nor_taken_for_deleted() {
    let mut rig = Rig::start().await;
    rig.upload("node_modules/m/index.js", "m").await.unwrap();
    rig.deliver_all().await;
    rig.sh("mkdir -p node_modules/n && echo n > node_modules/n/x && printf secret > .env && printf '.env\\n' > .pvmignore").await;
    for _ in 0..2 {
        rig.save().await;
        let stored: Vec<String> = rig.records().await.into_keys().collect();
        assert_eq!(stored, [".pvmignore", "node_modules/m/index.js"]);
    }
    rig.new_vm().await;
    rig.save().await;
    assert!(rig.differing().await.is_empty());
    assert_eq!(rig.sh("cat node_modules/m/index.js; ls -A").await, "m.pvmignore\nnode_modules\n");
    rig.sh("rm -r node_modules").await;
    rig.save().await;
    assert_eq!(rig.records().await.len(), 1, "what is really gone is gone");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_does_a_part_and_the_next_call_the_rest() {
    let rig = Rig::start().await;
    rig.sh("for i in $(seq 30); do echo $i > f$i; done").await;
    let budget = save::Budget { files: 20, bytes: u64::MAX };
    let first = rig.save_within(budget).await.unwrap();
    assert_eq!((first.saved, first.more), (20, true));
    let second = rig.save_within(budget).await.unwrap();
    assert_eq!((second.saved, second.more), (10, false));
    let entries = rig.vm.scan_workspace(&rig.vm_id).await.unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.kind == EntryKind::File).count(), 30);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_newest_versions_are_kept_with_their_objects() {
    let mut rig = Rig::start().await;
    for round in 0..30 {
        rig.upload("a", format!("{round}")).await.unwrap();
        rig.deliver_all().await;
    }
    let file = rig.record("a").await;
    let Rig { store, principal, project_id, objects, .. } = &rig;
    let versions =
        pvm_application::files::history::list(store, principal, project_id, &file.file_id).await.unwrap();
    let versions = versions.all;
    assert_eq!(versions.len(), 21);
    use pvm_application::ports::GetObject as _;
    for version in &versions {
        objects.get(&object_key(project_id, &file.file_id, version.object)).await.unwrap();
    }
    let oldest = versions.last().unwrap().number;
    assert!(objects.get(&object_key(project_id, &file.file_id, oldest - 1)).await.is_err());
    let Way::Whole(_) = rig.announce("a", announced(1)).await.unwrap().1 else {
        panic!("small uploads are whole")
    };
    rig.stop().await;
}
