//! Those who watch: a stream can be taken up at any point, and nobody sees anything twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pvm_application::events::{Follower, Frame, page};
use pvm_application::store::{Delta, Key, Listing, Page, ReadStore, Record, StoreError};
use pvm_asl::Clock as _;
use pvm_domain::conversation::{Delivery, Mode};
use pvm_domain::event::{Event, EventType, LogId};
use serde_json::json;

use crate::rig::gate::Gate;
use crate::rig::models::{Say, say};
use crate::rig::{Rig, SimAmbient, Store};

/// The rig's store, whose waits are made in simulated time by moving it.
#[derive(Clone)]
struct Quick(Arc<Rig>);

impl std::fmt::Debug for Quick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quick")
    }
}

impl ReadStore for Quick {
    async fn get<R: Record>(&self, key: &Key) -> Result<Option<R>, StoreError> {
        self.0.store.get(key).await
    }
    async fn list<R: Record>(&self, listing: Listing) -> Result<Page<R>, StoreError> {
        self.0.store.list(listing).await
    }
    async fn events(&self, log: &LogId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.0.store.events(log, after, limit).await
    }
    async fn log_head(&self, log: &LogId) -> Result<u64, StoreError> {
        self.0.store.log_head(log).await
    }
    async fn wait_for_append(&self, log: &LogId, seen: u64, at_most: Duration) {
        if self.0.store.log_head(log).await.unwrap() <= seen {
            self.0.clock.advance(at_most);
        }
    }
    async fn deltas(&self, message: &str) -> Result<Vec<Delta>, StoreError> {
        self.0.store.deltas(message).await
    }
}

/// The pieces of a message's last try, by number: one that comes again after a reconnect stands where it stood.
type Pieces = (u64, BTreeMap<u64, String>);

/// What a client makes of its streams: events by number, and the text of each message as it stands.
#[derive(Debug, Default)]
struct Client {
    seqs: Vec<u64>,
    texts: BTreeMap<String, Pieces>,
    completed: BTreeMap<String, String>,
}

impl Client {
    fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Heartbeat => {}
            Frame::Event(event) => {
                self.seqs.push(event.seq.unwrap());
                let id = event.data["message_id"].as_str().unwrap_or_default().to_owned();
                match event.kind {
                    EventType::MessageReset => {
                        let attempt = event.data["attempt"].as_u64().unwrap();
                        self.texts.insert(id, (attempt, BTreeMap::new()));
                    }
                    EventType::MessageCompleted => {
                        self.completed.insert(id, event.data["text"].as_str().unwrap().to_owned());
                    }
                    _ => {}
                }
            }
            Frame::Delta(delta) => {
                assert_eq!(delta.seq, None, "a piece of text has no number to come back to");
                let id = delta.data["message_id"].as_str().unwrap().to_owned();
                let attempt = delta.data["attempt"].as_u64().unwrap();
                let known = self.texts.entry(id).or_insert((attempt, BTreeMap::new()));
                if attempt > known.0 {
                    *known = (attempt, BTreeMap::new());
                }
                if attempt == known.0 {
                    let text = delta.data["text"].as_str().unwrap().to_owned();
                    let before = known.1.insert(delta.data["chunk"].as_u64().unwrap(), text.clone());
                    assert!(before.is_none_or(|before| before == text), "a number stands for one text");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_stream_taken_up_anywhere_has_every_event_once_and_ends_by_itself() {
    let rig = Rig::new(|request| match request.place.agent_step {
        0 => say("I look around.").takes(2).call("look", json!({"what": "a"})),
        _ => say("That was it.").takes(2),
    })
    .await;
    *rig.models.breaks.lock().unwrap() = 1;
    let made = rig.create(&["dev_agent", "designer_agent"], Mode::RoundRobin, "Go").await;
    rig.settle().await;
    let head = rig.events(&made.conversation_id).await.len() as u64;
    let log = LogId::Conversation(made.conversation_id.clone());
    for after in 0..=head {
        let mut stream =
            Follower::new(Quick(Arc::clone(&rig)), rig.ambient.clone(), log.clone(), after).await.unwrap();
        let began = rig.clock.now();
        let mut client = Client::default();
        while let Some(frame) = stream.next().await.unwrap() {
            client.take(&frame);
        }
        assert_eq!(client.seqs, (after + 1..=head).collect::<Vec<_>>(), "from {after}");
        assert_eq!(
            rig.clock.now().duration_since(began).as_secs(),
            10,
            "it closes ten seconds after the end"
        );
        // The same by long poll.
        let polled = page(&rig.store, &rig.ambient, &log, after, Duration::ZERO).await.unwrap();
        assert!(polled.ended);
        let seqs: Vec<u64> = polled.events.iter().map(|event| event.seq.unwrap()).collect();
        assert_eq!((seqs, polled.next_after), (client.seqs, head));
    }
    let beyond = Follower::new(Quick(Arc::clone(&rig)), rig.ambient.clone(), log, head + 1).await;
    assert_eq!(beyond.unwrap_err().field.as_deref(), Some("after"));
}

#[tokio::test]
async fn whoever_watches_a_call_that_is_made_again_sees_its_text_once() {
    let rig = Rig::new(|request| {
        say(if request.place.initial_message == "Go" { "Once upon a time." } else { "The end." }).takes(3)
    })
    .await;
    *rig.models.breaks.lock().unwrap() = 2;
    let hold = rig.clock.work();
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    let log = LogId::Conversation(made.conversation_id.clone());
    let mut live = Follower::new(rig.store.clone(), rig.ambient.clone(), log.clone(), 0).await.unwrap();
    let watching = tokio::spawn(async move {
        let mut client = Client::default();
        let mut frames = 0;
        while let Some(frame) = live.next().await.unwrap() {
            frames += usize::from(matches!(frame, Frame::Delta(_)));
            client.take(&frame);
            if matches!(&frame, Frame::Event(event) if event.kind == EventType::RunFinished) {
                break;
            }
        }
        (client, frames)
    });
    drop(hold);
    rig.settle().await;
    let (client, pieces) = watching.await.unwrap();
    assert_eq!(client.seqs, (1..=client.seqs.len() as u64).collect::<Vec<_>>());
    for (id, (_, pieces)) in &client.texts {
        let (text, whole) = (pieces.values().cloned().collect::<String>(), &client.completed[id]);
        assert!(whole.starts_with(text.as_str()), "{text:?} is not the beginning of {whole:?}");
    }
    assert!(pieces <= 3, "each try sends its text once");

    // In the middle of a message: what was written of it so far comes first, and the message is whole in the end.
    rig.send(&made.conversation_id, "Again", Delivery::Queue).await;
    let head = rig.events_open(&made.conversation_id).await;
    rig.settle().await;
    for after in head..head + 3 {
        let mut late =
            Follower::new(Quick(Arc::clone(&rig)), rig.ambient.clone(), log.clone(), after).await.unwrap();
        let mut client = Client::default();
        while let Some(frame) = late.next().await.unwrap() {
            client.take(&frame);
        }
        assert!(client.seqs.windows(2).all(|two| two[1] == two[0] + 1));
        let texts: Vec<&String> = client.completed.values().collect();
        assert!(texts.iter().all(|text| *text == "The end." || *text == "Again"), "{texts:?}");
    }
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_lives() {
    let rig = Rig::new(|_| say("Hm.").call("change", json!({"what": "gate"}))).await;
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    let gate = rig.vm.gate();
    gate.reached().await;
    let log = LogId::Conversation(made.conversation_id.clone());
    let mut stream = Follower::new(Quick(Arc::clone(&rig)), rig.ambient.clone(), log, 0).await.unwrap();
    let began = rig.clock.now();
    let (mut beats, mut last) = (0, began);
    while let Some(frame) = stream.next().await.unwrap() {
        beats += u32::from(frame == Frame::Heartbeat);
        let now = rig.clock.now();
        assert!(now.duration_since(last).as_secs() <= 15, "silence from {last} to {now}");
        last = now;
    }
    assert!(beats > 50, "{beats}");
    assert_eq!(rig.clock.now().duration_since(began).as_secs(), 14 * 60, "a Lambda's time ends soon after");
    gate.open();
    rig.cancel(&made.conversation_id).await;
    rig.settle().await;
}

/// Reads a stream until a frame is the last that is wanted.
async fn read_until(
    stream: &mut Follower<Store, SimAmbient>,
    client: &mut Client,
    last: impl Fn(&Client, &Frame) -> bool,
) {
    while let Some(frame) = stream.next().await.unwrap() {
        client.take(&frame);
        if last(client, &frame) {
            return;
        }
    }
    panic!("the stream ended before that");
}

#[tokio::test]
async fn a_client_that_reconnects_in_the_middle_of_a_message_sees_its_text_once() {
    let text: String = (0..600).map(|n| format!("{n} ")).collect();
    let gate = Arc::new(Mutex::new(None::<Gate>));
    let (said, stands) = (text.clone(), Arc::clone(&gate));
    let rig = Rig::new(move |_| Say { gate: stands.lock().unwrap().clone(), ..say(&said) }).await;
    let before = Gate::new(&rig.clock);
    *gate.lock().unwrap() = Some(before.clone());
    let made = rig.create(&["dev_agent"], Mode::RoundRobin, "Go").await;
    before.reached().await;
    let log = LogId::Conversation(made.conversation_id.clone());
    let follow = async |after| {
        Follower::new(rig.store.clone(), rig.ambient.clone(), log.clone(), after).await.unwrap()
    };
    let mut client = Client::default();
    for _ in 0..3 {
        let mut stream = follow(client.seqs.last().copied().unwrap_or(0)).await;
        read_until(&mut stream, &mut client, |_, frame| matches!(frame, Frame::Delta(_))).await;
    }
    let open: Vec<&Pieces> = client.texts.values().collect();
    let shown: String = open[0].1.values().cloned().collect();
    assert!(open.len() == 1 && !shown.is_empty() && text.starts_with(&shown), "{shown:?}");
    assert!(client.completed.values().all(|whole| *whole == "Go"), "the answer is under way");
    before.open();
    let mut stream = follow(client.seqs.last().copied().unwrap()).await;
    let is_end = |_: &Client, frame: &Frame| matches!(frame, Frame::Event(event) if event.kind == EventType::RunFinished);
    read_until(&mut stream, &mut client, is_end).await;
    assert_eq!(client.seqs, (1..=client.seqs.len() as u64).collect::<Vec<_>>(), "each event once");
    let answers: Vec<&String> = client.completed.values().filter(|whole| *whole != "Go").collect();
    assert_eq!(answers, [&text]);
    rig.settle().await;
}
