//! What can fall between two steps: a set-up and an upload, a restore and the pruning of versions, a call that is cut off.

use pvm_application::error::ErrorCode;
use pvm_application::files::upload::Announced;
use pvm_application::files::{history, restore, sync, unstored};
use pvm_application::keys;
use pvm_application::ports::GetObject as _;
use pvm_application::store::{ReadStore as _, Tx, WriteStore as _};
use pvm_domain::event::{EventType, LogId};
use pvm_domain::file::{ProjectFile, SyncStatus, object_key};
use pvm_domain::limits;
use pvm_entry::System;
use pvm_events::notification::{QueueBatch, QueueMessage};
use pvm_events::{save_files, sync_files};
use serde_json::json;

use crate::rig::{ByHand, CutAt, Rig};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_uploaded_and_deleted_during_a_set_up_is_so_in_the_vm_when_it_is_active() {
    let mut rig = Rig::start().await;
    rig.upload("old", "old").await.unwrap();
    rig.deliver_all().await;
    let operation = rig.set_up_again().await;
    rig.upload("new", "new").await.unwrap();
    rig.delete(&rig.record("old").await.file_id).await.unwrap();
    rig.deliver_all().await;
    assert_eq!(rig.record("new").await.sync_status, SyncStatus::Pending, "there is no VM to bring it to");
    rig.set_up_ends(&operation).await;
    assert_eq!(rig.sh("cat new; ls").await, "newnew\n");
    assert_eq!(rig.record("new").await.sync_status, SyncStatus::Synced);
    // A call that was cut off after the VM became active is repeated without harm.
    rig.upload("late", "late").await.unwrap();
    rig.set_up_ends(&operation).await;
    assert_eq!(rig.sh("cat late").await, "late");
    rig.stop().await;
}

async fn with_versions(rig: &Rig, count: usize) -> ProjectFile {
    for number in 1..=count {
        rig.upload("a", format!("version {number}")).await.unwrap();
    }
    rig.record("a").await
}

async fn bring_back(
    rig: &Rig,
    file: &ProjectFile,
    number: u64,
) -> pvm_application::error::AppResult<ProjectFile> {
    let Rig { store, principal, project_id, .. } = rig;
    restore::restore(store, &ByHand, &System, principal, project_id, &file.file_id, number).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_brought_back_while_it_is_pruned_keeps_its_bytes() {
    let rig = Rig::start().await;
    let before = with_versions(&rig, limits::FILE_VERSIONS + 2).await;
    // Whoever prunes has read the file; then the oldest version is brought back; then the pruning goes on.
    let back = bring_back(&rig, &before, 1).await.unwrap();
    history::prune(&rig.store, &rig.objects, &before).await.unwrap();
    assert_eq!(rig.objects.get(&back.current_key()).await.unwrap(), "version 1");
    // The other way round: what is pruned cannot be brought back any more, and its object is gone with it.
    history::prune(&rig.store, &rig.objects, &rig.record("a").await).await.unwrap();
    let kept = history::list(&rig.store, &rig.principal, &rig.project_id, &back.file_id).await.unwrap().all;
    assert_eq!(kept.len(), limits::FILE_VERSIONS + 1, "the current one beside them");
    assert_eq!(bring_back(&rig, &back, 2).await.unwrap_err().code, ErrorCode::NotFound);
    for version in kept {
        rig.objects.get(&object_key(&rig.project_id, &back.file_id, version.object)).await.unwrap();
    }
    rig.objects.get(&object_key(&rig.project_id, &back.file_id, 2)).await.unwrap_err();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_somebody_began_to_prune_is_not_brought_back_and_goes() {
    let rig = Rig::start().await;
    let file = with_versions(&rig, limits::FILE_VERSIONS + 2).await;
    // Cut off after the mark.
    let key = keys::file_version(&rig.project_id, &file.file_id, 1);
    let mut marked: pvm_domain::file::FileVersion = rig.store.get(&key).await.unwrap().unwrap();
    marked.erasing = true;
    rig.store.commit(Tx::new().update(&mut marked)).await.unwrap();
    assert_eq!(bring_back(&rig, &file, 1).await.unwrap_err().code, ErrorCode::NotFound);
    let listed = history::list(&rig.store, &rig.principal, &rig.project_id, &file.file_id).await.unwrap().all;
    assert!(listed.iter().all(|version| version.number != 1), "{listed:?}");
    history::prune(&rig.store, &rig.objects, &file).await.unwrap();
    rig.objects.get(&object_key(&rig.project_id, &file.file_id, 1)).await.unwrap_err();
    assert_eq!(rig.store.get::<pvm_domain::file::FileVersion>(&key).await.unwrap(), None);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_told_once_and_counted() {
    let rig = Rig::start().await;
    rig.sh("touch good $'bad\\xff'; cd /workspace; for i in 1 2 3 4 5; do mkdir $(printf 'd%.0s' $(seq 240)); cd d*; done; touch deep").await;
    rig.save().await;
    let found = unstored::load(&rig.store, &rig.project_id).await.unwrap();
    assert_eq!(found.total, 2, "{found:?}");
    assert!(found.paths.iter().any(|path| path.starts_with("bad")), "{found:?}");
    assert_eq!(rig.records().await.keys().collect::<Vec<_>>(), ["good"]);
    rig.save().await;
    rig.sh("rm $'bad\\xff'").await;
    rig.save().await;
    let log = LogId::Project(rig.project_id.clone());
    let events = rig.store.events(&log, 0, 1_000).await.unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.kind == EventType::FileUnstored).collect();
    assert_eq!(told.iter().map(|event| &event.data["total"]).collect::<Vec<_>>(), [&json!(2), &json!(1)]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_parts_whose_way_into_the_vm_was_cut_off_is_not_read_anew() {
    let mut rig = Rig::start().await;
    let parts = Announced { in_parts: true, size: 5, ..Announced::default() };
    let (file, way) = rig.announce("big", parts).await.unwrap();
    rig.send_in_parts(&file, &way, "bytes").await;
    let events = rig.take_events();
    let cut = CutAt::path(rig.vm.clone(), "big");
    for event in &events {
        sync::object_created(&rig.store, &rig.objects, &cut, &System, event).await.unwrap_err();
    }
    let record = rig.record("big").await;
    assert_eq!((record.object_version, record.size), (1, 5), "what it is was found out and noted");
    assert!(record.sha256.is_some() && record.uploads.is_empty());
    assert_eq!(record.sync_status, SyncStatus::Pending);
    for event in &events {
        rig.deliver(event).await.unwrap();
    }
    assert_eq!(rig.sh("cat big").await, "bytes");
    rig.stop().await;
}

fn batch(bodies: &[String]) -> QueueBatch {
    let message =
        |(place, body): (usize, &String)| QueueMessage { message_id: place.to_string(), body: body.clone() };
    QueueBatch { records: bodies.iter().enumerate().map(message).collect() }
}

fn failed(answer: pvm_events::notification::BatchAnswer) -> Vec<String> {
    answer.batch_item_failures.into_iter().map(|item| item.item_identifier).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_batch_only_what_failed_comes_again_and_what_can_never_be_read_does_not() {
    let mut rig = Rig::start().await;
    let mut bodies = Vec::new();
    for name in ["one", "two", "three"] {
        let (_, way) = rig.announce(name, Announced { size: 3, ..Announced::default() }).await.unwrap();
        assert_eq!(rig.send(&way, "abc").await, 200);
        bodies.extend(rig.take_bodies());
    }
    bodies.insert(1, "poison".to_owned());
    assert_eq!(bodies.len(), 4);
    // The second upload is looked at first by a VM that is away.
    let Rig { store, objects, vm, .. } = &rig;
    let cut = CutAt::path(vm.clone(), "two");
    let answer = sync_files::handle(store, objects, &cut, &System, batch(&bodies)).await;
    assert_eq!(
        failed(answer),
        ["2"],
        "those before and behind it are done, and the poison is not asked for again"
    );
    assert_eq!(rig.sh("ls").await, "one\nthree\n");
    let answer = sync_files::handle(store, objects, vm, &System, batch(&bodies[2..3])).await;
    assert_eq!((failed(answer).len(), rig.sh("ls").await.as_str()), (0, "one\nthree\ntwo\n"));

    // Saves keep their order: what stands behind a failed one waits with it.
    let save = json!({"project_id": rig.project_id}).to_string();
    let bodies = [save.clone(), "poison".to_owned(), save.clone(), save];
    let cut = CutAt::scan(vm.clone(), 1);
    let answer = save_files::handle(store, objects, &cut, &ByHand, &System, batch(&bodies)).await;
    assert_eq!(failed(answer), ["2", "3"]);
    rig.stop().await;
}
