//! The record store.

use std::sync::Arc;
use std::time::Duration;

use pvm_application::store::{
    Condition, Delta, Index, IndexKey, Key, Listing, Purge, ReadStore as _, Record, StoreError, Tx,
    WriteStore as _,
};
use pvm_aws::clients::{ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, DynamoSettings, Tables, clients, schema};
use pvm_domain::Timestamp;
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::ids::{PrefixedId as _, ProjectId};
use pvm_embedded::dynamo::EmbeddedDynamo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::faults::{Fault, Faulty};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    shelf: String,
    name: String,
    text: String,
    tags: Vec<String>,
    free: Value,
    weight: f64,
    count: u64,
    absent: Option<String>,
    owner: Option<String>,
    due: Option<String>,
    expires: Option<Timestamp>,
    version: u64,
}

impl Note {
    fn new(shelf: &str, name: &str) -> Self {
        Self {
            shelf: shelf.into(),
            name: name.into(),
            text: String::new(),
            tags: Vec::new(),
            free: Value::Null,
            weight: 0.0,
            count: 0,
            absent: None,
            owner: None,
            due: None,
            expires: None,
            version: 0,
        }
    }
}

impl Record for Note {
    const KIND: &'static str = "note";
    fn key(&self) -> Key {
        Key { pk: format!("N#{}", self.shelf), sk: format!("NAME#{}", self.name) }
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn set_version(&mut self, version: u64) {
        self.version = version;
    }
    fn owner_index(&self) -> Option<IndexKey> {
        let owner = self.owner.as_ref()?;
        Some(IndexKey { pk: format!("U#{owner}"), sk: format!("N#{}", self.name) })
    }
    fn sweep_index(&self) -> Option<IndexKey> {
        Some(IndexKey { pk: "SWEEP".into(), sk: self.due.clone()? })
    }
    fn expires_at(&self) -> Option<Timestamp> {
        self.expires
    }
}

fn settings(engine: Faulty) -> ClientSettings {
    ClientSettings {
        region: Some("us-east-1".into()),
        credentials: Some(StaticCredentials { access_key: "key".into(), secret_key: "secret".into() }),
        dynamodb_http: Some(aws_smithy_runtime_api::client::http::SharedHttpClient::new(engine)),
        ..ClientSettings::default()
    }
}

fn tables() -> Tables {
    Tables { app: "pvm-app".into(), events: "pvm-events".into() }
}

async fn at(second: i64, engine: &EmbeddedDynamo) -> (Dynamo, Faulty) {
    let faulty = Faulty::new(engine.http_client());
    let client = clients::load(settings(faulty.clone())).await.dynamodb();
    schema::create_missing(&client, &tables()).await.unwrap();
    faulty.seen();
    let now = Timestamp::from_second(second).unwrap();
    let settings = DynamoSettings { poll_interval: None, now: Arc::new(move || now) };
    (Dynamo::with_settings(client, tables(), settings), faulty)
}

async fn dynamo() -> Dynamo {
    at(0, &EmbeddedDynamo::in_memory().unwrap()).await.0
}

fn log(n: u64) -> LogId {
    LogId::Project(ProjectId::from_parts(n, 1))
}

fn event(text: &str) -> NewEvent {
    NewEvent::new(EventType::FileChanged, Timestamp::from_second(7).unwrap(), json!({"text": text}))
}

#[tokio::test]
async fn a_record_comes_back_exactly_as_it_was_stored() {
    let store = dynamo().await;
    let mut deep = json!(1.0);
    for _ in 0..60 {
        deep = json!({ "inner": [deep] });
    }
    let mut note = Note::new("a", "one");
    note.text = "ü\n".into();
    note.tags = vec!["x".into(), String::new()];
    note.free = json!({"z": 1.0, "a": [null, true, 1e300, -5, 18_446_744_073_709_551_615_u64], "deep": deep});
    note.weight = 1.0;
    note.count = u64::MAX;
    store.commit(Tx::new().create(&mut note)).await.unwrap();
    let read: Note = store.get(&note.key()).await.unwrap().unwrap();
    assert_eq!(read, note);
    // The order of keys as well: what a model is shown must not change from read to read.
    assert_eq!(read.free.to_string(), note.free.to_string());
    assert_eq!(read.version, 1);
}

#[tokio::test]
async fn a_big_record_fits_and_one_beyond_the_limit_is_refused_with_a_reason() {
    let store = dynamo().await;
    let mut note = Note::new("a", "big");
    note.text = "x".repeat(380 * 1024);
    store.commit(Tx::new().create(&mut note)).await.unwrap();
    let read: Note = store.get(&note.key()).await.unwrap().unwrap();
    assert_eq!(read.text.len(), note.text.len());
    let mut huge = Note::new("a", "huge");
    huge.text = "x".repeat(500 * 1024);
    let refused = store.commit(Tx::new().create(&mut huge)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Broken(text) if text.contains("size")), "{refused:?}");
}

#[tokio::test]
async fn a_record_of_another_kind_is_not_taken_for_this_one() {
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Other {
        version: u64,
    }
    impl Record for Other {
        const KIND: &'static str = "other";
        fn key(&self) -> Key {
            Note::new("a", "one").key()
        }
        fn version(&self) -> u64 {
            self.version
        }
        fn set_version(&mut self, version: u64) {
            self.version = version;
        }
    }
    let store = dynamo().await;
    store.commit(Tx::new().create(&mut Note::new("a", "one"))).await.unwrap();
    let read = store.get::<Other>(&Note::new("a", "one").key()).await;
    assert!(matches!(read, Err(StoreError::Broken(_))));
}

#[tokio::test]
async fn every_condition_is_checked_and_a_conflict_names_the_record() {
    let store = dynamo().await;
    let mut note = Note::new("a", "one");
    store.commit(Tx::new().create(&mut note)).await.unwrap();
    let mut stale = note.clone();

    let note_key = note.key();
    let conflict = |tx: Tx| {
        let (store, key) = (store.clone(), note_key.clone());
        async move {
            match store.commit(tx).await {
                Err(StoreError::Conflict { key: at }) => assert_eq!(at, key),
                other => panic!("{other:?}"),
            }
        }
    };
    conflict(Tx::new().create(&mut Note::new("a", "one"))).await;
    note.text = "changed".into();
    store.commit(Tx::new().update(&mut note)).await.unwrap();
    assert_eq!(note.version, 2);
    conflict(Tx::new().update(&mut stale)).await;
    stale.version = 1;
    conflict(Tx::new().delete(&stale)).await;
    // In a transaction, with something else that would have been fine.
    let other = || Note::new("b", "other");
    conflict(Tx::new().create(&mut other()).check(&stale)).await;
    conflict(Tx::new().create(&mut other()).require(note.key(), Condition::Absent)).await;
    conflict(Tx::new().create(&mut Note::new("a", "one")).append(&log(1), event("no"))).await;
    assert!(store.get::<Note>(&other().key()).await.unwrap().is_none());
    assert_eq!(store.log_head(&log(1)).await.unwrap(), 0);
    // What holds, holds.
    let mut third = Note::new("b", "third");
    store.commit(Tx::new().create(&mut third)).await.unwrap();
    let tx = Tx::new().create(&mut other()).check(&note).require(third.key(), Condition::Present);
    store.commit(tx.require(Note::new("a", "none").key(), Condition::Absent)).await.unwrap();
    store.commit(Tx::new().delete(&note)).await.unwrap();
    store.commit(Tx::new().remove(note.key())).await.unwrap();
    assert!(store.get::<Note>(&note.key()).await.unwrap().is_none());
}

#[tokio::test]
async fn one_write_alone_is_no_transaction() {
    let (store, faulty) = at(0, &EmbeddedDynamo::in_memory().unwrap()).await;
    let mut note = Note::new("a", "one");
    store.commit(Tx::new().create(&mut note)).await.unwrap();
    store.commit(Tx::new().delete(&note)).await.unwrap();
    assert_eq!(faulty.seen(), ["DynamoDB_20120810.PutItem", "DynamoDB_20120810.DeleteItem"]);
}

#[tokio::test]
async fn a_lost_answer_is_no_conflict_with_oneself() {
    let (store, faulty) = at(0, &EmbeddedDynamo::in_memory().unwrap()).await;
    let mut note = Note::new("a", "one");
    faulty.queue([Fault::AnswerLost]);
    store.commit(Tx::new().create(&mut note)).await.unwrap();
    faulty.queue([Fault::AnswerLost]);
    store.commit(Tx::new().update(&mut note)).await.unwrap();
    let stored: Note = store.get(&note.key()).await.unwrap().unwrap();
    assert_eq!(stored.version, 2);
    // A transaction with events: first a read of the head, then the write whose answer is lost.
    let mut two = Note::new("a", "two");
    let tx = Tx::new().create(&mut two).append(&log(1), event("once"));
    faulty.queue([Fault::None, Fault::AnswerLost]);
    store.commit(tx).await.unwrap();
    assert_eq!(store.events(&log(1), 0, 10).await.unwrap().len(), 1);
    faulty.queue([Fault::AnswerLost]);
    store.commit(Tx::new().delete(&note)).await.unwrap();
    // Somebody else's record is still in the way.
    let mut again = Note::new("a", "two");
    again.text = "mine".into();
    faulty.queue([Fault::AnswerLost]);
    assert!(matches!(store.commit(Tx::new().create(&mut again)).await, Err(StoreError::Conflict { .. })));
}

#[tokio::test]
async fn throttles_are_waited_out_and_told_when_they_last() {
    let (store, faulty) = at(0, &EmbeddedDynamo::in_memory().unwrap()).await;
    faulty.queue([Fault::Throttled; 2]);
    store.commit(Tx::new().create(&mut Note::new("a", "one"))).await.unwrap();
    faulty.queue([Fault::Throttled; 3]);
    let read = store.get::<Note>(&Note::new("a", "one").key()).await;
    assert!(matches!(read, Err(StoreError::Throttled(_))), "{read:?}");
}

#[tokio::test]
async fn pages_of_a_listing_join_without_gap_or_repeat() {
    let store = dynamo().await;
    for chunk in (0..250).collect::<Vec<_>>().chunks(90) {
        let mut tx = Tx::new();
        for n in chunk {
            tx = tx.create(&mut Note::new("shelf", &format!("{n:04}")));
        }
        store.commit(tx).await.unwrap();
    }
    store.commit(Tx::new().create(&mut Note::new("shelf2", "0000"))).await.unwrap();
    for newest_first in [false, true] {
        let mut names: Vec<String> = Vec::new();
        let mut after = None;
        let mut pages = 0;
        loop {
            let mut listing = Listing::of("N#shelf", "NAME#").page(50, after);
            listing.descending = newest_first;
            let page = store.list::<Note>(listing).await.unwrap();
            names.extend(page.items.into_iter().map(|note| note.name));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut wanted: Vec<_> = (0..250).map(|n| format!("{n:04}")).collect();
        if newest_first {
            wanted.reverse();
        }
        assert_eq!((names, pages), (wanted, 5));
    }
    let some = store.list::<Note>(Listing::of("N#shelf", "NAME#01")).await.unwrap();
    assert_eq!((some.items.len(), some.next), (100, None));
}

#[tokio::test]
async fn a_listing_larger_than_one_answer_of_dynamodb_is_whole() {
    let store = dynamo().await;
    for n in 0..12 {
        let mut note = Note::new("fat", &format!("{n:02}"));
        note.text = "x".repeat(200 * 1024);
        store.commit(Tx::new().create(&mut note)).await.unwrap();
    }
    let page = store.list::<Note>(Listing::of("N#fat", "")).await.unwrap();
    assert_eq!((page.items.len(), page.next), (12, None));
}

#[tokio::test]
async fn indexes_follow_the_record_and_page() {
    let store = dynamo().await;
    for n in 0..5 {
        let mut note = Note::new(&format!("s{n}"), &format!("n{n}"));
        note.owner = Some("ann".into());
        note.due = Some(format!("{n:03}"));
        store.commit(Tx::new().create(&mut note)).await.unwrap();
    }
    let first =
        store.list::<Note>(Listing::of("U#ann", "N#").from_index(Index::Owner).page(3, None)).await.unwrap();
    assert_eq!(first.items.len(), 3);
    let rest = Listing::of("U#ann", "N#").from_index(Index::Owner).page(3, first.next.clone());
    let rest = store.list::<Note>(rest).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (2, None));
    let mut due = Listing::of("SWEEP", "").from_index(Index::Sweep);
    due.up_to = Some("002".into());
    let found = store.list::<Note>(due.clone()).await.unwrap().items;
    assert_eq!(found.len(), 3);
    // A record that leaves an index is no longer found there.
    let mut done = found[0].clone();
    done.due = None;
    store.commit(Tx::new().update(&mut done)).await.unwrap();
    assert_eq!(store.list::<Note>(due).await.unwrap().items.len(), 2);
    // A position of one listing does not open another.
    let stolen = Listing::of("U#bob", "N#").from_index(Index::Owner).page(3, first.next);
    assert!(matches!(store.list::<Note>(stolen).await, Err(StoreError::Broken(_))));
}

#[tokio::test]
async fn an_expired_record_does_not_stand_in_the_way_and_a_sweep_removes_it() {
    let engine = EmbeddedDynamo::in_memory().unwrap();
    let (early, _) = at(100, &engine).await;
    let mut note = Note::new("a", "claim");
    note.expires = Some(Timestamp::from_second(200).unwrap());
    early.commit(Tx::new().create(&mut note)).await.unwrap();
    let mut again = Note { text: "second".into(), version: 0, ..note.clone() };
    assert!(matches!(early.commit(Tx::new().create(&mut again)).await, Err(StoreError::Conflict { .. })));
    let (late, _) = at(200, &engine).await;
    let mut again = Note { text: "second".into(), version: 0, ..note.clone() };
    late.commit(Tx::new().create(&mut again)).await.unwrap();
    // Its time is decades ago by the engine's own clock.
    assert_eq!(engine.sweep().await.unwrap(), 1);
    assert!(late.get::<Note>(&note.key()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_writers_of_two_processes_number_a_log_without_gap() {
    let engine = EmbeddedDynamo::in_memory().unwrap();
    // Two stores that know nothing of each other, as two Lambdas.
    let stores = [at(0, &engine).await.0, at(0, &engine).await.0];
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let store = stores[writer % 2].clone();
        writers.spawn(async move {
            for n in 0..10 {
                let mut note = Note::new(&format!("w{writer}"), &format!("{n}"));
                let tx = Tx::new().create(&mut note).append(&log(1), event(&format!("{writer}/{n}")));
                let committed = store.commit(tx.append(&log(1), event("and"))).await.unwrap();
                assert_eq!(committed.heads.len(), 1);
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let events = stores[0].events(&log(1), 0, 1000).await.unwrap();
    let numbers: Vec<_> = events.iter().map(|event| event.seq.unwrap()).collect();
    assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
    // Each pair stayed together.
    assert!(events.chunks(2).all(|pair| pair[1].data["text"] == "and"));
    assert_eq!(stores[1].log_head(&log(1)).await.unwrap(), 400);
    let some = stores[1].events(&log(1), 395, 3).await.unwrap();
    assert_eq!(some.iter().map(|event| event.seq.unwrap()).collect::<Vec<_>>(), [396, 397, 398]);
}

#[tokio::test]
async fn one_commit_appends_to_several_logs() {
    let store = dynamo().await;
    let tx = Tx::new().append(&log(1), event("a")).append(&log(2), event("b")).append(&log(1), event("c"));
    let committed = store.commit(tx).await.unwrap();
    assert_eq!(committed.heads, [(log(1), 2), (log(2), 1)]);
    assert_eq!(store.events(&log(1), 1, 10).await.unwrap()[0].data["text"], "c");
}

#[tokio::test]
async fn a_unit_of_work_that_is_too_large_is_refused_before_it_is_sent() {
    let (store, faulty) = at(0, &EmbeddedDynamo::in_memory().unwrap()).await;
    let mut tx = Tx::new();
    for n in 0..100 {
        tx = tx.append(&log(1), event(&n.to_string()));
    }
    assert!(matches!(store.commit(tx).await, Err(StoreError::Broken(text)) if text.contains("split")));
    assert!(faulty.seen().is_empty());
    assert!(store.commit(Tx::new()).await.unwrap().heads.is_empty());
}

#[tokio::test]
async fn a_reader_wakes_at_the_commit_or_the_delta() {
    let store = dynamo().await;
    let hour = Duration::from_hours(1);
    store.commit(Tx::new().append(&log(1), event("first"))).await.unwrap();
    // Already there.
    store.wait_for_append(&log(1), 0, hour).await;
    for deltas in [false, true] {
        let head = store.log_head(&log(1)).await.unwrap();
        let waiter = tokio::spawn({
            let store = store.clone();
            async move { store.wait_for_append(&log(1), head, hour).await }
        });
        tokio::task::yield_now().await;
        if deltas {
            store.put_delta(&log(1), &delta(1, 0, "x")).await.unwrap();
        } else {
            store.commit(Tx::new().append(&log(1), event("next"))).await.unwrap();
        }
        tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap();
    }
}

fn delta(attempt: u32, chunk: u32, text: &str) -> Delta {
    Delta {
        message_id: "msg_1".into(),
        attempt,
        chunk,
        agent_id: "dev_agent".into(),
        text: text.into(),
        expires_at: Timestamp::from_second(4_000_000_000).unwrap(),
    }
}

#[tokio::test]
async fn deltas_are_those_of_the_last_attempt_in_order_each_once() {
    let store = dynamo().await;
    assert!(store.deltas("msg_1").await.unwrap().is_empty());
    for given in
        [delta(1, 0, "void"), delta(2, 1, "b"), delta(2, 0, "a"), delta(2, 10, "d"), delta(2, 2, "c")]
    {
        store.put_delta(&log(1), &given).await.unwrap();
    }
    store.put_delta(&log(1), &delta(2, 1, "B")).await.unwrap();
    let text: String = store.deltas("msg_1").await.unwrap().into_iter().map(|delta| delta.text).collect();
    assert_eq!(text, "aBcd");
}

#[tokio::test]
async fn a_purge_removes_a_partition_piece_by_piece_but_for_what_stays() {
    let store = dynamo().await;
    let mut tx = Tx::new();
    for n in 0..70 {
        tx = tx.create(&mut Note::new("gone", &format!("{n:02}")));
    }
    store.commit(tx).await.unwrap();
    let kept = Note::new("gone", "00").key();
    let purge = Purge::Records { pk: kept.pk.clone(), keep: Some(kept.sk.clone()) };
    let mut gone = Vec::new();
    loop {
        match store.purge(purge.clone(), 30).await.unwrap() {
            0 => break,
            n => gone.push(n),
        }
    }
    assert_eq!(gone.iter().sum::<u32>(), 69);
    assert!(store.get::<Note>(&kept).await.unwrap().is_some());
    // A limit of one must not stop at the one that stays.
    assert_eq!(store.purge(purge, 1).await.unwrap(), 0);
    store.commit(Tx::new().create(&mut Note::new("gone", "01"))).await.unwrap();
    let purge = Purge::Records { pk: kept.pk, keep: Some(kept.sk) };
    assert_eq!(store.purge(purge, 1).await.unwrap(), 1);
    store.commit(Tx::new().append(&log(3), event("a")).append(&log(3), event("b"))).await.unwrap();
    assert_eq!(store.purge(Purge::Log(log(3)), 100).await.unwrap(), 2);
    assert!(store.events(&log(3), 0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn everything_is_there_after_the_database_was_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("home").join("dynamo.db");
    let mut note = Note::new("a", "one");
    {
        let (store, _) = at(0, &EmbeddedDynamo::open(&file).unwrap()).await;
        store.commit(Tx::new().create(&mut note).append(&log(1), event("kept"))).await.unwrap();
    }
    let (store, _) = at(0, &EmbeddedDynamo::open(&file).unwrap()).await;
    assert_eq!(store.get::<Note>(&note.key()).await.unwrap(), Some(note));
    store.commit(Tx::new().append(&log(1), event("next"))).await.unwrap();
    assert_eq!(store.events(&log(1), 0, 10).await.unwrap().len(), 2);
}
