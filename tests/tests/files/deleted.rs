//! Files that the VM deleted: kept with their versions, had back, forgotten; and what all of that counts as storage.

use jiff::SignedDuration;
use pvm_application::cleanup::Kept;
use pvm_application::error::ErrorCode;
use pvm_application::fair_use;
use pvm_application::files::{deleted, history, restore};
use pvm_application::ports::{Clock, GetObject as _};
use pvm_application::vm::status::{Recent, status};
use pvm_domain::Timestamp;
use pvm_domain::fair_use::Resource;
use pvm_domain::file::{ProjectFile, object_key};
use pvm_domain::ids::FileId;
use pvm_entry::System;

use crate::rig::{ByHand, Rig};

/// The system's clock, set forward.
struct Later(SignedDuration);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        System.now() + self.0
    }
    async fn sleep(&self, time: std::time::Duration) {
        System.sleep(time).await;
    }
}

/// Bytes that are counted as the owner's storage.
async fn storage(rig: &Rig) -> u64 {
    let shares = fair_use::get(&rig.store, &System, &rig.principal).await.unwrap();
    shares.into_iter().find(|share| share.resource == Resource::StorageBytes).unwrap().used
}

/// Sizes of all versions, newest first, and the number of the current one.
async fn versions(rig: &Rig, file: &FileId) -> (Vec<u64>, Option<u64>) {
    let found = history::list(&rig.store, &rig.principal, &rig.project_id, file).await.unwrap();
    (found.all.iter().map(|version| version.size).collect(), found.current)
}

async fn deleted_paths(rig: &Rig, prefix: &str) -> Vec<String> {
    let Rig { store, principal, project_id, .. } = rig;
    let page = deleted::list(store, principal, project_id, prefix, 100, None).await.unwrap();
    page.items.into_iter().map(|deleted| deleted.file.path.as_str().to_owned()).collect()
}

async fn bring_back(rig: &Rig, file: &FileId, number: u64) -> Result<ProjectFile, ErrorCode> {
    let Rig { store, principal, project_id, .. } = rig;
    let back = restore::restore(store, &ByHand, &System, principal, project_id, file, number).await;
    back.map_err(|error| error.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_the_vm_deleted_comes_back_with_its_versions() {
    let rig = Rig::start().await;
    rig.sh("mkdir -p dir && printf one > dir/a").await;
    rig.save().await;
    rig.sh("printf longer > dir/a; chmod 750 dir/a").await;
    rig.save().await;
    let id = rig.record("dir/a").await.file_id;
    assert_eq!(versions(&rig, &id).await, (vec![6, 3], Some(2)));
    assert_eq!(storage(&rig).await, 9, "earlier versions count");

    rig.sh("rm dir/a").await;
    assert_eq!(rig.save().await.forgotten, 1);
    assert!(rig.records().await.is_empty() && rig.save().await.is_quiet());
    assert_eq!(deleted_paths(&rig, "dir/").await, ["dir/a"]);
    assert!(deleted_paths(&rig, "other/").await.is_empty());
    assert_eq!(versions(&rig, &id).await, (vec![6, 3], None), "listed, and none is the current one");
    assert_eq!(storage(&rig).await, 9, "what is kept counts");

    let back = bring_back(&rig, &id, 1).await.unwrap();
    assert_eq!((back.size, back.path.as_str()), (3, "dir/a"));
    assert!(deleted_paths(&rig, "").await.is_empty());
    assert_eq!(rig.save().await.pushed, 1);
    assert_eq!(rig.sh("cat dir/a").await, "one");
    assert_eq!(versions(&rig, &id).await, (vec![3, 6, 3], Some(3)), "what it was last is kept too");
    assert_eq!(storage(&rig).await, 12);
    // It goes on as the file that it was.
    rig.sh("printf four > dir/a").await;
    rig.save().await;
    assert_eq!(versions(&rig, &id).await, (vec![4, 3, 6, 3], Some(4)));

    // Where something else is at its path by now, that one stays.
    rig.sh("rm dir/a").await;
    rig.save().await;
    rig.sh("printf new > dir/a").await;
    rig.save().await;
    assert_ne!(rig.record("dir/a").await.file_id, id);
    assert_eq!(bring_back(&rig, &id, 2).await, Err(ErrorCode::Conflict));
    assert_eq!(bring_back(&rig, &id, 9).await, Err(ErrorCode::NotFound));
    assert_eq!(rig.sh("cat dir/a").await, "new");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_is_forgotten_after_its_time_or_at_once_where_somebody_says_so() {
    let rig = Rig::start().await;
    rig.sh("printf one > a; printf kept > b; printf out > c").await;
    rig.save().await;
    rig.sh("printf two! > a").await;
    rig.save().await;
    let (a, c) = (rig.record("a").await.file_id, rig.record("c").await.file_id);
    rig.sh("rm a c").await;
    rig.save().await;
    assert_eq!(storage(&rig).await, 3 + 4 + 4 + 3);

    // Deleting it through the API does not wait.
    rig.delete(&c).await.unwrap();
    assert_eq!(rig.delete(&c).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!((deleted_paths(&rig, "").await, storage(&rig).await), (vec!["a".to_owned()], 11));
    assert!(rig.objects.get(&object_key(&rig.project_id, &c, 1)).await.is_err());

    let kept = Kept::default().deleted_files;
    let sweep =
        async |clock: Later| deleted::sweep(&rig.store, &rig.objects, &clock, kept, 100).await.unwrap();
    assert_eq!(sweep(Later(kept - SignedDuration::from_hours(1))).await, 0, "before its time");
    assert_eq!(sweep(Later(kept + SignedDuration::from_hours(1))).await, 1);
    assert_eq!(sweep(Later(kept + SignedDuration::from_hours(1))).await, 0);
    assert!(deleted_paths(&rig, "").await.is_empty());
    assert_eq!(bring_back(&rig, &a, 1).await, Err(ErrorCode::NotFound));
    for number in [1, 2] {
        assert!(rig.objects.get(&object_key(&rig.project_id, &a, number)).await.is_err(), "{number}");
    }
    assert_eq!(storage(&rig).await, 4, "only the file that is there counts");
    rig.objects.get(&object_key(&rig.project_id, &rig.record("b").await.file_id, 1)).await.unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_count_once_and_are_given_back_when_they_go() {
    let mut rig = Rig::start().await;
    for round in 0..25 {
        rig.upload("a", vec![b'x'; 100 + round]).await.unwrap();
        rig.deliver_all().await;
    }
    // The current one and twenty earlier ones are kept.
    let kept: u64 = (100 + 4..100 + 25).sum();
    assert_eq!(storage(&rig).await, kept);
    let file = rig.record("a").await;
    rig.delete(&file.file_id).await.unwrap();
    assert_eq!(storage(&rig).await, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_document_shows_how_far_a_restore_is() {
    use pvm_application::files::save::Budget;
    let mut rig = Rig::start().await;
    rig.sh("for n in $(seq 10); do echo $n > f$n; done").await;
    rig.save().await;
    let counts = async |rig: &Rig| {
        let Rig { store, vm, principal, project_id, .. } = rig;
        let seen = status(store, vm, &System, &Recent::default(), principal, project_id).await.unwrap();
        (seen.files.total, seen.files.synced, seen.files.pending, seen.files.failed)
    };
    assert_eq!(counts(&rig).await, (10, 10, 0, 0));
    rig.new_vm().await;
    assert_eq!(counts(&rig).await, (10, 0, 10, 0), "a new VM has none of them");
    // Piece by piece, as the set-up step of a large workspace does it.
    for (done, is_all) in [(4, false), (8, false), (10, true)] {
        let outcome = rig.save_within(Budget { files: 4, bytes: u64::MAX }).await.unwrap();
        assert_eq!(outcome.more, !is_all, "{outcome:?}");
        assert_eq!(counts(&rig).await, (10, done, 10 - done, 0));
    }
    rig.stop().await;
}
